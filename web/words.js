// The trigger words that a node puts out: which of them, chosen on the node once the output is connected.

import { listAdapters } from "./api.js";
import { button, h, redraw } from "./dom.js";
import { asOneChange, hideWidgets, setValue, widgetOf } from "./host.js";
import { t } from "./texts.js";

/** @typedef {import("./host.js").Node} Node */

const SKIPPED = "skip_words";
const OUTPUT = "trigger_words";
/** Words that a node shows; all others are put out without a switch. */
const MOST = 24;

export class Words {
    /** @param {Node} node @param {() => string[]} files of the node that are on */
    constructor(node, files) {
        this.node = node;
        this.files = files;
        this.element = h("div.lokr-words", { role: "group", "aria-label": t("Trigger words"), hidden: true });
        if (!widgetOf(node, SKIPPED)) this.addWidget();
        hideWidgets(node, (widget) => widget.name === SKIPPED || Boolean(widget.hidden));
    }

    /** A widget that is sent and not saved: a stack's own widgets come and go, and saved values are counted. */
    addWidget() {
        const { node } = this;
        const widget = node.addWidget("text", SKIPPED, "", () => {}, {});
        widget.serialize = false;
        // A prompt without a choice is what it was.
        Object.assign(widget, { serializeValue: () => widget.value || undefined });
        Object.defineProperty(widget, "value", {
            get: () => String(node.properties?.[SKIPPED] ?? ""),
            set: (value) => {
                node.setProperty(SKIPPED, String(value));
            },
        });
    }

    get skipped() {
        const text = String(widgetOf(this.node, SKIPPED)?.value ?? "");
        return text
            .split(",")
            .map((word) => word.trim())
            .filter(Boolean);
    }

    async draw() {
        const connected = this.node.outputs?.find(({ name }) => name === OUTPUT)?.links?.length;
        const known = connected ? await listAdapters().catch(() => []) : [];
        const names = connected ? this.files() : [];
        const words = names.flatMap((name) => known.find((file) => file.name === name)?.trigger_words ?? []);
        const skipped = new Set(this.skipped.map((word) => word.toLowerCase()));
        const chips = [...new Set(words)].slice(0, MOST).map((word) => {
            const on = !skipped.has(word.toLowerCase());
            const chip = button(t('Put out "{word}"', { word }), word, () => this.toggle(word), {
                "data-key": `word-${word}`,
            });
            chip.classList.add("lokr-chip");
            chip.setAttribute("aria-pressed", String(on));
            return chip;
        });
        redraw(this.element, chips);
        this.element.hidden = !chips.length;
    }

    /** @param {string} word */
    toggle(word) {
        const widget = widgetOf(this.node, SKIPPED);
        const kept = this.skipped.filter((other) => other.toLowerCase() !== word.toLowerCase());
        const next = kept.length === this.skipped.length ? [...kept, word] : kept;
        if (widget) asOneChange(() => setValue(this.node, widget, next.join(", ")));
        this.draw();
    }
}
