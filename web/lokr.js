// The entry point: what this pack adds to ComfyUI's front end. Without it the nodes still work with plain widgets.

import { Badge } from "./badge.js";
import { editBlocks, refreshBlocksEditor } from "./blocks_editor.js";
import { chooseFile, offeredBy } from "./chooser.js";
import { CurveEditor } from "./curve_editor.js";
import { button, h } from "./dom.js";
import { addFace } from "./face.js";
import {
    after,
    api,
    app,
    asOneChange,
    nodeOfExecution,
    onChange,
    onQueue,
    setValue,
    vueNodes,
    widgetOf,
} from "./host.js";
import { showInfo } from "./info.js";
import { isPresent, keepRun, lastRun, queuedNodes, signatureOf } from "./last_run.js";
import { PLAIN, Rows } from "./rows.js";
import { readRows } from "./rows_model.js";

/** @typedef {import("./host.js").Node} Node */

const FILE = "lokr_name";
const TEXT_PREVIEW = "$$node-text-preview";

/** @type {WeakMap<Node, Badge>} */
const badges = new WeakMap();
/** @type {WeakMap<Node, Rows>} */
const stacks = new WeakMap();
/** @type {Set<Node>} those whose badge is about to be drawn */
const waiting = new Set();
/** @type {Map<string, import("./last_run.js").Queued>} by prompt id */
const queued = new Map();
/** @type {import("./last_run.js").Queued | undefined} a run may end before the server's answer is read */
let newest;

/** Estimated height of a bar until it is on the page. */
const BAR = 26;

/** @param {Node} node */
function isOurs(node) {
    return Boolean(node.comfyClass?.startsWith("LoKr"));
}

/**
 * Show a node's last run on its badge and rows: grey unless values, connections and files are still the same.
 * @param {Node} node
 */
async function showLastRun(node) {
    const badge = badges.get(node);
    const name = fileOf(node);
    const run = lastRun(node);
    if (!badge || (badge.error && badge.failed === signatureOf(node))) return;
    if (!run || (name !== null && run.reports[0].file !== name)) {
        stacks.get(node)?.mark([]);
        if (name === null) badge.show("none", "not run yet");
        else if (name !== badge.file || badge.reports.length || badge.error) badge.describe(name);
        return;
    }
    const signature = signatureOf(node);
    const present = await isPresent(node, run).catch(() => false);
    if (run === lastRun(node) && signature === signatureOf(node)) showRun(node, run.reports, present);
    else soonShowLastRun(node);
}

/** @param {Node} node @param {import("./badge.js").Report[]} reports @param {boolean} present */
function showRun(node, reports, present) {
    const badge = badges.get(node);
    if (badge) badge.file = fileOf(node) ?? "";
    badge?.report(reports, present);
    stacks.get(node)?.mark(present ? reports : []);
}

/** @param {Node} node @param {string} message */
function showError(node, message) {
    badges.get(node)?.fail(message, signatureOf(node));
    stacks.get(node)?.markError(message);
}

/** The file of a node that has one. @param {Node} node @returns {string | null} */
function fileOf(node) {
    const widget = widgetOf(node, FILE);
    return widget ? String(widget.value ?? "") : null;
}

/** Call `showLastRun` once after the changes of this moment. @param {Node} node */
function soonShowLastRun(node) {
    if (waiting.has(node)) return;
    waiting.add(node);
    setTimeout(() => {
        waiting.delete(node);
        showLastRun(node);
    });
}

/** Add the badge and, if the node has a file, its buttons. @param {Node} node */
function addStatus(node) {
    const badge = new Badge();
    const bar = h("div.lokr-bar", {}, badge.element);
    const file = widgetOf(node, FILE);
    if (file) {
        const name = () => String(file.value ?? "");
        const choose = () => {
            const onChoose = (/** @type {string} */ chosen) => asOneChange(() => setValue(node, file, chosen));
            chooseFile({ current: name(), offered: offeredBy(file), onChoose });
        };
        bar.append(button("Choose a file by search and previews", "files", choose, { "data-key": "choose" }));
        bar.append(button("Info on the file", "info", () => showInfo(name()), { "data-key": "info" }));
        badge.describe(name());
    }
    if (!addFace(node, "lokr_status", "LoKr status", bar, BAR)) return;
    badges.set(node, badge);
    listen(node);
    after(node, "onConfigure", () => {
        listen(node);
        soonShowLastRun(node);
    });
    after(node, "onConnectionsChange", () => soonShowLastRun(node));
    widen(node, 315);
}

/** @type {WeakSet<import("./host.js").Widget>} */
const heard = new WeakSet();

/** Follow the widgets of a node, which come and go with a stack's rows. @param {Node} node */
function listen(node) {
    for (const widget of node.widgets ?? []) {
        if (heard.has(widget) || widget.serialize === false) continue;
        heard.add(widget);
        onChange(widget, () => {
            listen(node);
            soonShowLastRun(node);
        });
    }
}

/** Make a new node wide enough for its face. @param {Node} node @param {number} width */
function widen(node, width) {
    node.setSize([Math.max(node.size[0], width), node.computeSize()[1]]);
}

/** @param {Node} node */
function addStack(node) {
    const rows = new Rows(node);
    const face = addFace(node, "lokr_rows", "LoKr rows", rows.element, 56);
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
    addFace(node, "lokr_blocks", "LoKr blocks", h("div.lokr-bar", {}, edit), BAR);
}

/** @param {Node} node */
function addCurve(node) {
    addFace(node, "lokr_curve", "LoKr curve", new CurveEditor(node).element, 182);
    widen(node, 320);
}

/** @param {CustomEvent} event the end of a node's execution */
function onExecuted({ detail }) {
    const reports = detail.output?.lokr_report;
    if (!Array.isArray(reports) || !reports.length) return;
    const node = keepRun(String(detail.display_node ?? detail.node), queued.get(detail.prompt_id) ?? newest, reports);
    if (!node || !isOurs(node)) return;
    if (!badges.has(node)) addStatus(node);
    showRun(node, reports, lastRun(node)?.signature === signatureOf(node));
}

/** The server refused the prompt. @param {Record<string, any>} errors by node */
function onRefused(errors) {
    for (const [id, { errors: all = [] }] of Object.entries(errors)) {
        const node = nodeOfExecution(id);
        if (node && badges.has(node) && all.length) showError(node, all.map(refusal).join("\n"));
    }
}

/** @param {{message: string, details?: string, extra_info?: {input_name?: string}}} error */
function refusal({ message, details = "", extra_info }) {
    const prefix = `${extra_info?.input_name} - `; // how ComfyUI introduces what a node says itself
    return details.startsWith(prefix) ? details.slice(prefix.length) : `${message}: ${details}`;
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
            if (node) showError(node, exception_message);
        });
        api.addEventListener("executed", (event) => onExecuted(event));
        api.addEventListener("execution_cached", (event) => {
            for (const id of event.detail.nodes ?? []) {
                const node = nodeOfExecution(String(id));
                const badge = node && badges.get(node);
                if (!badge) continue;
                badge.error = "";
                soonShowLastRun(node);
            }
        });
        onQueue({
            before: () => (newest = queuedNodes(isOurs)),
            accepted: (id, nodes) => {
                queued.set(id, nodes);
                if (queued.size > 100) queued.delete([...queued.keys()][0]);
            },
            refused: onRefused,
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
    },
    afterConfigureGraph: refreshBlocksEditor,
    getNodeMenuItems: menuItems,
    getSelectionToolboxCommands: (item) => (filesOf(/** @type {any} */ (item)).length ? ["LoKr.Info"] : []),
});
