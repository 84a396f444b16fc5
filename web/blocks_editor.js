// The block editor: a slider for each block, in the model's layout. Its state is in the node's two widgets.

import { adapterInfo, blockLayout } from "./api.js";
import { changedText, problemsOf, strengthsOf } from "./blocks_text.js";
import { openDialog } from "./dialog.js";
import { button, copyText, h, redraw } from "./dom.js";
import { app, asOneChange, nodesAfter, setValue, widgetOf } from "./host.js";
import { offeredBy } from "./chooser.js";
import { LIMIT, slider } from "./slider.js";
import { t, told } from "./texts.js";

/**
 * @typedef {import("./host.js").Node} Node
 * @typedef {import("./api.js").BlockLayout} BlockLayout
 */

/** @type {BlocksEditor | null} */
let open = null;

/** @param {Node} node */
export function editBlocks(node) {
    open = new BlocksEditor(node);
}

/** Call after the graph was reloaded, for example by an undo: its nodes are new objects. */
export function refreshBlocksEditor() {
    open?.refresh();
}

const FILE = "file:";

class BlocksEditor {
    /** @param {Node} node */
    constructor(node) {
        this.id = node.id;
        this.graph = node.graph;
        /** @type {BlockLayout | null} */
        this.layout = null;
        /** @type {Map<string, number>} energy of the file's blocks, as a share of the largest */
        this.shares = new Map();
        this.architecture = h("select", { "aria-label": t("Architecture"), onchange: () => this.load() });
        this.preset = h("select", { "aria-label": t("Preset"), onchange: () => this.choosePreset() });
        this.blocks = h("div.lokr-blocks");
        this.status = h("span.lokr-said", { role: "status" });
        this.problems = h("p.lokr-problems", { id: "lokr-block-problems", role: "status" });
        this.text = h("textarea", {
            rows: 4,
            "aria-describedby": "lokr-block-problems",
            spellcheck: false,
            "aria-label": t("Strengths as text"),
            oninput: () => this.setText(this.text.value),
        });
        const content = h(
            "div.lokr-blocks-editor",
            {},
            h(
                "p.lokr-tools",
                {},
                h("label", {}, t("blocks of"), " ", this.architecture),
                h("label", {}, t("preset"), " ", this.preset),
            ),
            this.blocks,
            h("label.lokr-text", {}, t("as text"), this.text),
            this.problems,
            h(
                "p.lokr-tools",
                {},
                button(t("Copy the text"), t("copy"), () => this.copy()),
                button(t("Paste a text from the clipboard"), t("paste"), () => this.paste()),
                button(t("Set all blocks to 1"), t("reset"), () => this.choosePreset("none")),
                this.status,
            ),
        );
        const dialog = openDialog({
            kind: "blocks",
            title: t("Strength per block"),
            content,
            onClose: () => this.closed(),
        });
        this.close = dialog.close;
        this.start();
    }

    /** @returns {Node | null} */
    get node() {
        // A reload keeps the root graph and replaces every object in it.
        const graph = this.graph?.isRootGraph ? app.rootGraph : this.graph;
        return graph?.getNodeById(this.id) ?? null;
    }

    closed() {
        if (open === this) open = null;
    }

    /** @param {"preset" | "strengths"} name @returns {string} */
    value(name) {
        return String((this.node && widgetOf(this.node, name)?.value) ?? "");
    }

    /** @param {Record<string, string>} values */
    put(values) {
        const { node } = this;
        if (!node) return;
        asOneChange(() => {
            for (const [name, value] of Object.entries(values)) {
                const widget = widgetOf(node, name);
                if (widget) setValue(node, widget, value);
            }
        });
    }

    async start() {
        const { node } = this;
        const file = node && fileOf(node);
        try {
            const { architectures } = await blockLayout();
            const options = architectures.map((title) => h("option", { value: title }, title));
            if (file) options.unshift(h("option", { value: FILE + file }, file));
            this.architecture.replaceChildren(...options);
            const last = node?.properties?.lokr_architecture;
            if (!file && typeof last === "string" && architectures.includes(last)) this.architecture.value = last;
            await this.load();
        } catch (error) {
            this.blocks.replaceChildren(h("pre.lokr-error", {}, String(error)));
        }
    }

    async load() {
        const chosen = this.architecture.value;
        this.shares = new Map();
        if (chosen.startsWith(FILE)) {
            const info = await adapterInfo(chosen.slice(FILE.length));
            const largest = Math.max(0, ...(info.blocks ?? []).map((block) => block.energy));
            info.blocks?.forEach(({ block, energy }) => this.shares.set(block, largest && energy / largest));
            this.layout = info.layout ?? (await blockLayout());
        } else {
            this.layout = await blockLayout(chosen);
            if (this.node?.properties) this.node.properties.lokr_architecture = chosen;
        }
        this.refresh();
    }

    presetText() {
        return this.layout?.presets.find(({ name }) => name === this.value("preset"))?.text ?? "";
    }

    /** Redraw everything from the widgets. */
    refresh() {
        const { node, layout } = this;
        if (!node) return this.close();
        if (!layout) return;
        const widget = widgetOf(node, "preset");
        const fitting = new Set(layout.presets.map(({ name }) => name));
        const options = offeredBy(widget).map((name) =>
            h("option", { value: name, disabled: !fitting.has(name) }, name),
        );
        this.preset.replaceChildren(...options);
        this.preset.value = this.value("preset");
        if (document.activeElement !== this.text) this.text.value = this.value("strengths");
        const problems = problemsOf(layout, this.value("strengths"));
        this.problems.textContent = problems.join("\n");
        this.text.setAttribute("aria-invalid", String(problems.length > 0));
        const strengths = strengthsOf(layout, this.presetText(), this.value("strengths"));
        const names = layout.groups.map((group) => group.name);
        this.blocks.classList.toggle(
            "lokr-unet",
            ["IN", "MID", "OUT"].every((name) => names.includes(name)),
        );
        redraw(
            this.blocks,
            layout.groups.map((group) => this.group(group, strengths)),
        );
    }

    /** @param {BlockLayout["groups"][number]} group @param {Map<string, number>} strengths */
    group(group, strengths) {
        const values = group.blocks.map((block) => strengths.get(block) ?? 1);
        const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
        const one = group.blocks.length === 1;
        const sliders = group.blocks.map((block, index) => {
            const element = this.slider(block, t("strength of {block}", { block }), block, values[index], [block]);
            element.style.setProperty("--share", `${100 * (this.shares.get(block) ?? 0)}%`);
            return element;
        });
        const all = this.slider(
            `all-${group.name}`,
            t("strength of all {group}", { group: group.name }),
            t("all"),
            mean,
            group.blocks,
        );
        return h(
            "section",
            { "data-group": group.name, role: "group", "aria-label": told(group.label) },
            h("h3", {}, told(group.label)),
            !one && all,
            h("div.lokr-group", {}, ...sliders),
        );
    }

    /** @param {string} key @param {string} label @param {string} text @param {number} value @param {string[]} blocks */
    slider(key, label, text, value, blocks) {
        return slider({
            key,
            label,
            text,
            value: Number(value.toFixed(2)),
            min: -LIMIT,
            max: LIMIT,
            step: 0.01,
            onInput: (strength) => this.setBlocks(blocks, strength),
        });
    }

    /** @param {string[]} blocks @param {number} strength */
    setBlocks(blocks, strength) {
        if (!this.layout) return;
        const changes = new Map(blocks.map((block) => [block, strength]));
        const text = changedText(this.layout, this.presetText(), this.value("strengths"), changes);
        this.put({ strengths: text });
        this.text.value = text;
        // Do not redraw the sliders: one of them is being dragged.
        const strengths = strengthsOf(this.layout, this.presetText(), text);
        for (const [block, value] of strengths) {
            const other = this.blocks.querySelector(`[data-key="${CSS.escape(block)}"]`);
            if (other) other.value = value;
        }
    }

    /** @param {string} text */
    setText(text) {
        this.put({ strengths: text });
        this.refresh();
    }

    /** Choose a preset and clear the text, which belonged to the previous one. @param {string} [name] */
    choosePreset(name = this.preset.value) {
        this.put({ preset: name, strengths: "" });
        this.refresh();
    }

    async copy() {
        const whole = [this.presetText(), this.value("strengths")].filter(Boolean).join("\n");
        await copyText(whole);
        this.status.textContent = whole ? t("copied") : t("nothing to copy: all blocks are at 1");
    }

    async paste() {
        try {
            const text = await navigator.clipboard.readText();
            this.put({ preset: "none", strengths: text });
            this.refresh();
            this.status.textContent = t("pasted");
        } catch {
            this.text.focus();
            this.status.textContent = t("this browser blocks reading the clipboard: paste into the text instead");
        }
    }
}

/** The adapter file of the first loader or stack that the node is connected to. @param {Node} node */
function fileOf(node) {
    for (const loader of nodesAfter(node)) {
        const widget = loader.widgets?.find(({ name }) => name === "lokr_name" || name === "lokr_1");
        if (widget?.value) return String(widget.value);
    }
    return null;
}
