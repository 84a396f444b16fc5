// The status of a node: its badge, its files' buttons, and what the last run made of it.

import { onNewNames } from "./api.js";
import { Badge } from "./badge.js";
import { chooseFile, offeredBy } from "./chooser.js";
import { connectedModel } from "./connected_model.js";
import { button, h } from "./dom.js";
import { addFace } from "./face.js";
import { after, allNodes, api, asOneChange, nodeOfExecution, onChange, onQueue, setValue, widgetOf } from "./host.js";
import { showInfo } from "./info.js";
import { isPresent, keepRun, lastRun, queuedNodes, signatureOf } from "./last_run.js";
import { missingFile } from "./missing_file.js";
import { peekAt } from "./preview.js";
import { t } from "./texts.js";

/** @typedef {import("./host.js").Node} Node */
/** @typedef {import("./badge.js").Report} Report */
/** @typedef {{mark: (reports: Report[]) => void, markError: (message: string) => void}} Marked what shows a run too */

/** The widgets with a node's file. */
const FILES = ["lokr_name", "x_lokr"];
/** Estimated height of a bar until it is on the page. */
export const BAR = 26;

/** @type {WeakMap<Node, Badge>} */
const badges = new WeakMap();
/** @type {WeakSet<Node>} nodes with a badge since an error, such as LoKr Extract */
const errorsOnly = new WeakSet();
/** @type {WeakMap<Node, Marked>} */
const marked = new WeakMap();
/** @type {Set<Node>} those whose badge is about to be drawn */
const waiting = new Set();
/** @type {Map<string, import("./last_run.js").Queued>} by prompt id */
const queued = new Map();
/** @type {import("./last_run.js").Queued | undefined} a run may end before the server's answer is read */
let newest;

/** @param {Node} node */
export function isOurs(node) {
    return Boolean(node.comfyClass?.startsWith("LoKr"));
}

/** Whether a node's badge tells what it did, and not only what went wrong. @param {Node} node */
export function hasBadge(node) {
    return badges.has(node) && !errorsOnly.has(node);
}

/** The widget with a node's file, if it has one. @param {Node} node */
export function fileWidget(node) {
    return FILES.map((name) => widgetOf(node, name)).find((widget) => widget !== undefined);
}

/** @param {Node} node @returns {string | null} */
function fileOf(node) {
    const widget = fileWidget(node);
    return widget ? String(widget.value ?? "") : null;
}

/**
 * Show a node's last run on its badge and rows: grey unless values, connections and files are still the same.
 * @param {Node} node
 */
async function showLastRun(node) {
    const badge = badges.get(node);
    if (!badge) return;
    const asked = signatureOf(node);
    const missing = await missingFile(node, fileWidget(node)).catch(() => ""); // a server without the routes
    if (asked !== signatureOf(node)) return soonShowLastRun(node);
    if (badge.error && badge.failed === asked) return;
    if (missing) return showError(node, missing, "");
    const name = fileOf(node);
    const run = lastRun(node);
    if (!run || (name !== null && !run.reports.some((report) => report.file === name))) {
        marked.get(node)?.mark([]);
        if (name === null) badge.rest();
        else if (name !== badge.file || badge.reports.length || badge.error) badge.describe(name);
        return;
    }
    const signature = signatureOf(node);
    const present = await isPresent(node, run).catch(() => false);
    if (run === lastRun(node) && signature === signatureOf(node)) showRun(node, run.reports, present);
    else soonShowLastRun(node);
}

/** @param {Node} node @param {Report[]} reports @param {boolean} present */
function showRun(node, reports, present) {
    const badge = badges.get(node);
    if (badge) badge.file = fileOf(node) ?? "";
    badge?.report(reports, present);
    marked.get(node)?.mark(present ? reports : []);
}

/** @param {Node} node @param {string} message @param {string} [signature] of the node while it fails */
function showError(node, message, signature = signatureOf(node)) {
    if (isOurs(node) && !badges.has(node) && node.comfyClass !== "LoKrTrain") {
        errorsOnly.add(node);
        addStatus(node);
    }
    badges.get(node)?.fail(message.trim(), signature);
    marked.get(node)?.markError(message);
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

/**
 * Add the badge and, if the node has a file, its buttons.
 * @param {Node} node
 * @param {HTMLElement[]} [further] what the face has below
 * @param {Marked} [rows] what shows a run too
 */
export function addStatus(node, further = [], rows) {
    const badge = new Badge();
    const bar = h("div.lokr-bar", {}, badge.element);
    const file = fileWidget(node);
    if (file) {
        const name = () => String(file.value ?? "");
        const choose = () => {
            const onChoose = (/** @type {string} */ chosen) => asOneChange(() => setValue(node, file, chosen));
            chooseFile({ current: name(), offered: offeredBy(file), fitting: connectedModel(node), onChoose });
        };
        const files = button(t("Choose a file by search and previews"), t("files"), choose, { "data-key": "choose" });
        peekAt(files, name);
        bar.append(files);
        bar.append(button(t("Info on the file"), t("info"), () => showInfo(name()), { "data-key": "info" }));
        badge.instead = choose;
        file.value = ""; // a new node has no file; a loaded one gets its own after this
        badge.describe("");
    }
    const face = addFace(node, "lokr_status", t("LoKr status"), h("div", {}, bar, ...further), BAR);
    if (!face) return null;
    badges.set(node, badge);
    if (rows) marked.set(node, rows);
    listen(node);
    after(node, "onConfigure", () => {
        listen(node);
        soonShowLastRun(node);
    });
    after(node, "onConnectionsChange", () => soonShowLastRun(node));
    return face;
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

/** @param {CustomEvent} event the end of a node's execution */
function onExecuted({ detail }) {
    const reports = detail.output?.lokr_report;
    if (!Array.isArray(reports) || !reports.length)
        return onDone(nodeOfExecution(String(detail.display_node ?? detail.node)));
    const node = keepRun(String(detail.display_node ?? detail.node), queued.get(detail.prompt_id) ?? newest, reports);
    if (!node || !isOurs(node)) return;
    if (!badges.has(node)) addStatus(node);
    showRun(node, reports, lastRun(node)?.signature === signatureOf(node));
}

/** A node without reports has ended well: its last error is no more. @param {Node | null} node */
function onDone(node) {
    const badge = node && badges.get(node);
    if (!node || !badge?.error) return;
    const name = fileOf(node);
    if (name !== null) return void badge.describe(name);
    badge.rest();
    badge.show("ok", t("done"));
}

/** The server refused the prompt. @param {Record<string, any>} errors by node */
function onRefused(errors) {
    for (const [id, { errors: all = [] }] of Object.entries(errors)) {
        const node = nodeOfExecution(id);
        if (node && isOurs(node) && all.length) showError(node, all.map(refusal).join("\n"));
    }
}

/** @param {{type?: string, message: string, details?: string, extra_info?: {input_name?: string}}} error */
function refusal({ type = "", message, details = "", extra_info }) {
    if (type.startsWith("exception_during")) return details; // what a node raises itself
    const prefix = `${extra_info?.input_name} - `; // how ComfyUI introduces what a node says itself
    return details.startsWith(prefix) ? details.slice(prefix.length) : `${message}: ${details}`;
}

/** Follow what the page runs, and which files there are. */
export function followRuns() {
    onNewNames(() => {
        for (const [node] of allNodes()) if (badges.has(node)) soonShowLastRun(node);
    });
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
}
