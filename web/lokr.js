// The entry point: what this pack adds to ComfyUI's front end. Without it the nodes still work with plain widgets.

import { knownAdapters, listAdapters } from "./api.js";
import { editBlocks, refreshBlocksEditor } from "./blocks_editor.js";
import { completeNames, namedIn } from "./completion.js";
import { CurveEditor } from "./curve_editor.js";
import { button, h } from "./dom.js";
import { followDrops } from "./drop.js";
import { addFace } from "./face.js";
import { after, api, app, asOneChange, nodeOfExecution, onChange, vueNodes, widgetOf } from "./host.js";
import { showInfo } from "./info.js";
import { followTab } from "./keyboard.js";
import { pictureOf, usePicture } from "./preview.js";
import { Rows } from "./rows.js";
import { readRows } from "./rows_model.js";
import { putLoaderFirst } from "./search_order.js";
import { colorSlots } from "./slot_colors.js";
import { addStatus, BAR, fileWidget, followRuns, hasBadge, isOurs } from "./status.js";
import { PLAIN, Strengths } from "./strengths.js";
import { loadTexts, t } from "./texts.js";
import "./train.js";
import { Words } from "./words.js";

/** @typedef {import("./host.js").Node} Node */

const TEXT_PREVIEW = "$$node-text-preview";

/** @type {WeakMap<Node, {draw: () => void}>} what a node shows instead of its plain widgets */
const drawn = new WeakMap();

/** Make a new node wide enough for its face. @param {Node} node @param {number} width */
function widen(node, width) {
    node.setSize([Math.max(node.size[0], width), node.computeSize()[1]]);
}

/** The switches of a node's trigger words, drawn as its connections and files change. @param {Node} node */
function wordsOf(node) {
    const words = new Words(node, () => filesOf(node, true));
    after(node, "onConnectionsChange", () => words.draw());
    after(node, "onConfigure", () => words.draw());
    const names = ["lokr_name", "prompt"];
    for (const widget of node.widgets ?? []) if (names.includes(widget.name)) onChange(widget, () => words.draw());
    return words;
}

/** @param {Node} node */
function addLoader(node) {
    const strengths = widgetOf(node, "strength_model") && new Strengths(node);
    const words = node.outputs?.some(({ name }) => name === "trigger_words") && wordsOf(node);
    const face = addStatus(
        node,
        [strengths, words].flatMap((part) => (part ? [part.element] : [])),
    );
    if (strengths && face) {
        drawn.set(node, strengths);
        strengths.fit = face.fit;
        strengths.draw();
    }
    widen(node, 315);
}

/** @param {Node} node */
function addStack(node) {
    const rows = new Rows(node);
    const face = addFace(node, "lokr_rows", t("LoKr rows"), rows.element, 56);
    if (!face) return;
    rows.fit = face.fit;
    drawn.set(node, rows);
    const words = wordsOf(node);
    rows.onDrawn = () => words.draw();
    addStatus(node, [words.element], rows);
    widen(node, 490);
}

/** @param {Node} node */
function addBlocksButton(node) {
    const edit = button(t("Edit the strength of each block"), t("edit blocks"), () => editBlocks(node), {
        "data-key": "edit",
    });
    addFace(node, "lokr_blocks", t("LoKr blocks"), h("div.lokr-bar", {}, edit), BAR);
}

/** @param {Node} node */
function addCurve(node) {
    addFace(node, "lokr_curve", t("LoKr curve"), new CurveEditor(node).element, 182);
    widen(node, 320);
}

/** Remove the text preview of a node with a badge, which says the same. @param {Node} node */
function dropText(node) {
    const preview = widgetOf(node, TEXT_PREVIEW);
    if (!hasBadge(node) || !preview) return;
    const [, before] = node.computeSize();
    preview.onRemove?.();
    node.widgets = node.widgets?.filter((widget) => widget !== preview);
    if (!vueNodes()) node.setSize([node.size[0], node.size[1] - (before - node.computeSize()[1])]);
}

/** The files of a node, for its menu. @param {Node} node @param {boolean} [on] those in force only @returns {string[]} */
function filesOf(node, on = false) {
    if (node.comfyClass === "LoKrPromptLoader")
        return namedIn(String(widgetOf(node, "prompt")?.value ?? ""), knownAdapters());
    const rows = readRows(node).filter((row) => row.on || !on);
    const files = [fileWidget(node)?.value, widgetOf(node, "y_lokr")?.value, ...rows.map((row) => row.lokr)];
    return [...new Set(files.filter((file) => file && file !== "none").map(String))];
}

/** @type {Record<string, (node: Node) => void>} */
const FACES = {
    LoKrStack: addStack,
    LoKrPromptLoader: addLoader,
    LoKrBlockStrengths: addBlocksButton,
    LoKrSchedule: addCurve,
    LoKrGridImage: (node) => node.setSize([Math.max(node.size[0], 320), Math.max(node.size[1], 300)]),
};

/** @typedef {{content: string, callback: () => undefined}} MenuItem */

/** @param {Node} node @returns {MenuItem[]} */
function menuItems(node) {
    if (!isOurs(node)) return pictureItems(node);
    const items = filesOf(node).map((file) => ({
        content: t("LoKr info: {file}", { file }),
        callback: () => void showInfo(file),
    }));
    const face = drawn.get(node);
    if (face) {
        const plain = Boolean(node.properties?.[PLAIN]);
        const content = plain ? t("LoKr: show rows and sliders") : t("LoKr: show plain widgets");
        const callback = () => {
            asOneChange(() => node.setProperty(PLAIN, !plain));
            return void face.draw();
        };
        items.push({ content, callback });
    }
    if (node.comfyClass === "LoKrBlockStrengths") {
        items.push({ content: t("LoKr: edit blocks"), callback: () => void editBlocks(node) });
    }
    return items;
}

/** A picture of any node as the preview of a file that the workflow loads. @param {Node} node @returns {MenuItem[]} */
function pictureItems(node) {
    const picture = pictureOf(node);
    if (!picture) return [];
    const files = (app.graph?.nodes ?? []).filter(isOurs).flatMap((one) => filesOf(/** @type {Node} */ (one), true));
    return [...new Set(files)].slice(0, 8).map((file) => ({
        content: t("LoKr: use this picture as preview of {file}", { file }),
        callback: () => void usePicture(file, picture),
    }));
}

app.registerExtension({
    name: "comfyui-lokr",
    commands: [
        {
            id: "LoKr.Info",
            label: "LoKr: info on the selected node's file",
            icon: "pi pi-info-circle",
            function: () => {
                const selected = Object.values(app.canvas.selected_nodes ?? {});
                const [file] = selected.filter(isOurs).flatMap((node) => filesOf(node));
                if (file) showInfo(file);
            },
        },
    ],
    async init() {
        const style = h("link", { rel: "stylesheet", href: new URL("./lokr.css", import.meta.url).href });
        document.head.append(style);
        await loadTexts();
    },
    setup() {
        followRuns();
        followDrops();
        followTab();
        colorSlots();
        putLoaderFirst();
        completeNames(isPrompt);
        api.addEventListener("progress_text", (event) => {
            const node = nodeOfExecution(String(event.detail.nodeId));
            if (node && isOurs(node)) queueMicrotask(() => dropText(node));
        });
    },
    nodeCreated(node) {
        if (!isOurs(node)) return;
        const add = FACES[node.comfyClass ?? ""] ?? (fileWidget(node) ? addLoader : null);
        add?.(node);
    },
    afterConfigureGraph: refreshBlocksEditor,
    refreshComboInNodes: () => void listAdapters({ fresh: true }).catch(() => {}), // R
    getNodeMenuItems: menuItems,
    getSelectionToolboxCommands: (item) => (filesOf(/** @type {any} */ (item)).length ? ["LoKr.Info"] : []),
});

/** Whether a text field is the prompt of a Prompt Loader. @param {HTMLTextAreaElement} field */
function isPrompt(field) {
    const id = field.closest("[data-node-id]")?.getAttribute("data-node-id");
    const nodes = /** @type {Node[]} */ (app.canvas.graph?.nodes ?? []);
    return nodes.some((node) => {
        if (node.comfyClass !== "LoKrPromptLoader") return false;
        return String(node.id) === id || /** @type {any} */ (widgetOf(node, "prompt"))?.element === field;
    });
}
