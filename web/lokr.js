// The entry point: what this pack adds to ComfyUI's front end. Without it the nodes still work with plain widgets.

import { Badge } from "./badge.js";
import { editBlocks, refreshBlocksEditor } from "./blocks_editor.js";
import { chooseFile, offeredBy } from "./chooser.js";
import { CurveEditor } from "./curve_editor.js";
import { button, h } from "./dom.js";
import { addFace } from "./face.js";
import { after, api, app, asOneChange, onChange, setValue, vueNodes, widgetOf } from "./host.js";
import { showInfo } from "./info.js";
import { PLAIN, Rows } from "./rows.js";
import { readRows } from "./rows_model.js";

/** @typedef {import("./host.js").Node} Node */

const FILE = "lokr_name";
const TEXT_PREVIEW = "$$node-text-preview";

/** @type {WeakMap<Node, Badge>} */
const badges = new WeakMap();
/** @type {WeakMap<Node, Rows>} */
const stacks = new WeakMap();

/** Estimated height of a bar until it is on the page. */
const BAR = 26;

/** @param {Node} node */
function isOurs(node) {
    return Boolean(node.comfyClass?.startsWith("LoKr"));
}

/** Add the badge and, if the node has a file, its buttons. @param {Node} node */
function addStatus(node) {
    const badge = new Badge();
    const bar = h("div.lokr-bar", {}, badge.element);
    const file = widgetOf(node, FILE);
    if (file) {
        const name = () => String(file.value ?? "");
        const describe = () => name() !== badge.file && badge.describe(name());
        const choose = () => {
            const onChoose = (/** @type {string} */ chosen) => asOneChange(() => setValue(node, file, chosen));
            chooseFile({ current: name(), offered: offeredBy(file), onChoose });
        };
        bar.append(button("Choose a file by search and previews", "files", choose, { "data-key": "choose" }));
        bar.append(button("Info on the file", "info", () => showInfo(name()), { "data-key": "info" }));
        onChange(file, describe);
        after(node, "onConfigure", describe);
        describe();
    }
    if (!addFace(node, "lokr_status", bar, BAR)) return;
    badges.set(node, badge);
    widen(node, 315);
}

/** Make a new node wide enough for its face. @param {Node} node @param {number} width */
function widen(node, width) {
    node.setSize([Math.max(node.size[0], width), node.computeSize()[1]]);
}

/** @param {Node} node */
function addStack(node) {
    const rows = new Rows(node);
    const face = addFace(node, "lokr_rows", rows.element, 56);
    if (!face) return;
    rows.fit = face.fit;
    stacks.set(node, rows);
    widen(node, 490);
}

/** @param {Node} node */
function addBlocksButton(node) {
    const edit = button("Edit the strength of each block", "edit blocks", () => editBlocks(node), {
        "data-key": "edit",
    });
    addFace(node, "lokr_blocks", h("div.lokr-bar", {}, edit), BAR);
}

/** @param {Node} node */
function addCurve(node) {
    addFace(node, "lokr_curve", new CurveEditor(node).element, 182);
    widen(node, 320);
}

/** Show the reports of a node's last run. @param {Node} node @param {any} output */
function showReport(node, output) {
    const reports = output?.lokr_report;
    if (!Array.isArray(reports) || !reports.length) return;
    if (!badges.has(node)) addStatus(node);
    badges.get(node)?.report(reports);
}

/** Remove the text preview of a node with a badge, which says the same. @param {Node} node */
function dropText(node) {
    const preview = widgetOf(node, TEXT_PREVIEW);
    if (!badges.has(node) || !preview) return;
    const [, before] = node.computeSize();
    preview.onRemove?.();
    node.widgets = node.widgets?.filter((widget) => widget !== preview);
    if (!vueNodes()) node.setSize([node.size[0], node.size[1] - (before - node.computeSize()[1])]);
}

/** The node of an execution id: "12", or "12:5" for node 5 in the subgraph node 12. @param {string} id */
function nodeOfExecution(id) {
    /** @type {any} */
    let graph = app.rootGraph ?? app.graph;
    const path = String(id).split(":");
    for (const step of path.slice(0, -1)) graph = graph?.getNodeById(step)?.subgraph;
    return /** @type {Node | null} */ (graph?.getNodeById(path[path.length - 1]) ?? null);
}

/** The files of a node, for its menu. @param {Node} node @returns {string[]} */
function filesOf(node) {
    const file = widgetOf(node, FILE)?.value;
    const files = stacks.has(node) ? readRows(node).map((row) => row.lokr) : [file];
    return [...new Set(files.filter(Boolean).map(String))];
}

/** @type {Record<string, (node: Node) => void>} */
const FACES = {
    LoKrStack: (node) => {
        addStack(node);
        addStatus(node);
    },
    LoKrPromptLoader: addStatus,
    LoKrBlockStrengths: addBlocksButton,
    LoKrSchedule: addCurve,
};

/** @param {Node} node */
function menuItems(node) {
    if (!isOurs(node)) return [];
    /** @type {{content: string, callback: () => undefined}[]} */
    const items = filesOf(node).map((file) => ({ content: `LoKr info: ${file}`, callback: () => void showInfo(file) }));
    const rows = stacks.get(node);
    if (rows) {
        const content = rows.plain ? "LoKr: show rows" : "LoKr: show plain widgets";
        const callback = () => {
            asOneChange(() => node.setProperty(PLAIN, !rows.plain));
            return void rows.draw();
        };
        items.push({ content, callback });
    }
    if (node.comfyClass === "LoKrBlockStrengths") {
        items.push({ content: "LoKr: edit blocks", callback: () => void editBlocks(node) });
    }
    return items;
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
                const [file] = selected.filter(isOurs).flatMap(filesOf);
                if (file) showInfo(file);
            },
        },
    ],
    init() {
        const style = h("link", { rel: "stylesheet", href: new URL("./lokr.css", import.meta.url).href });
        document.head.append(style);
    },
    setup() {
        api.addEventListener("execution_error", (event) => {
            const { node_id, exception_message } = event.detail;
            const node = nodeOfExecution(String(node_id));
            if (node) badges.get(node)?.fail(exception_message);
        });
        api.addEventListener("progress_text", (event) => {
            const node = nodeOfExecution(String(event.detail.nodeId));
            if (node && isOurs(node)) queueMicrotask(() => dropText(node));
        });
    },
    nodeCreated(node) {
        if (!isOurs(node)) return;
        const add = FACES[node.comfyClass ?? ""] ?? (widgetOf(node, FILE) ? addStatus : null);
        add?.(node);
        after(node, "onExecuted", (output) => showReport(node, output));
    },
    afterConfigureGraph: refreshBlocksEditor,
    getNodeMenuItems: menuItems,
    getSelectionToolboxCommands: (item) => (filesOf(/** @type {any} */ (item)).length ? ["LoKr.Info"] : []),
});
