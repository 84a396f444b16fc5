// The last report of each node: in the workflow (a property of the node), and in the page's memory, for an undo.

import { adapterFile, listAdapters } from "./api.js";
import { allNodes, app, nodeOfExecution } from "./host.js";

/**
 * @typedef {import("./host.js").Node} Node
 * @typedef {import("./badge.js").Report} Report
 * @typedef {{signature: string, reports: Report[]}} Run `signature`: of the node as it was queued
 * @typedef {Map<string, {key: string, signature: string}>} Queued by execution id
 */

const PROPERTY = "lokr_last_run";

const KEPT = "lokr.runs";
const MOST_KEPT = 40;

/** @type {Map<string, Run>} kept by the browser's tab: the page's own copy of a workflow may miss the last run */
const runs = new Map(keptRuns());

/** @returns {[string, Run][]} */
function keptRuns() {
    try {
        return JSON.parse(sessionStorage.getItem(KEPT) ?? "[]");
    } catch {
        return [];
    }
}

/** @param {string} key @param {Run} run */
function remember(key, run) {
    runs.delete(key);
    runs.set(key, run);
    try {
        sessionStorage.setItem(KEPT, JSON.stringify([...runs].slice(-MOST_KEPT)));
    } catch {
        // No room: the page remembers it until it is closed.
    }
}

/** @param {Node} node */
function keyOf(node) {
    return `${node.graph?.id}/${node.id}`;
}

/** The page may give a graph another id when it loads it again. @param {string} id @param {string} signature */
function exactKey(id, signature) {
    return `${id.split(":").at(-1)}=${signature}`;
}

/** A hash of the node's saved values and of what its inputs are connected to. @param {Node} node */
export function signatureOf(node) {
    const saved = node.widgets?.filter((widget) => widget.serialize !== false) ?? [];
    const values = saved.map(({ name, value }) => [name, value]);
    const links = (node.inputs ?? []).map(({ name, link }) => {
        const from = link == null ? null : node.graph?.getLink?.(link);
        return [name, from && String(from.origin_id), from && from.origin_slot];
    });
    const linked = links.filter(([, origin]) => origin != null);
    return hash(JSON.stringify([node.comfyClass, values, linked]));
}

/** 32-bit FNV-1a. @param {string} text */
function hash(text) {
    let sum = 0x811c9dc5;
    for (let at = 0; at < text.length; at++) sum = Math.imul(sum ^ text.charCodeAt(at), 0x01000193);
    return (sum >>> 0).toString(16);
}

/** What a prompt is queued with. @param {(node: Node) => boolean} isOurs @returns {Queued} */
export function queuedNodes(isOurs) {
    const ours = [...allNodes()].filter(([node]) => isOurs(node));
    return new Map(ours.map(([node, id]) => [id, { key: keyOf(node), signature: signatureOf(node) }]));
}

/**
 * Keep the reports of a run; the node that ran, or null if another workflow is open now.
 * @param {string} id of the execution @param {Queued | undefined} queued @param {Report[]} reports
 */
export function keepRun(id, queued, reports) {
    const node = nodeOfExecution(id);
    const known = queued?.get(id) ?? (node && { key: keyOf(node), signature: signatureOf(node) });
    if (!known) return null;
    const run = { signature: known.signature, reports };
    remember(known.key, run);
    remember(exactKey(id, known.signature), run);
    if (!node || keyOf(node) !== known.key) return null;
    node.properties[PROPERTY] = /** @type {any} */ (run);
    putIntoState(node, run);
    return node;
}

/**
 * Write a run into the state that the page compares the graph with: otherwise it would be a step of the undo.
 * @param {Node} node @param {Run} run
 */
function putIntoState(node, run) {
    const tracker = /** @type {any} */ (app.extensionManager)?.workflow?.activeWorkflow?.changeTracker;
    // A copy: at first the page's saved state is the same object, and the workflow would not count as modified.
    const state = tracker?.activeState && structuredClone(tracker.activeState);
    const graph = /** @type {any} */ (node.graph);
    const subgraphs = /** @type {any[]} */ (state?.definitions?.subgraphs ?? []);
    const nodes = graph?.isRootGraph ? state?.nodes : subgraphs.find(({ id }) => id === graph?.id)?.nodes;
    const saved = nodes?.find((/** @type {any} */ one) => one.id === node.id);
    if (!saved) return tracker?.captureCanvasState?.();
    saved.properties = { ...saved.properties, [PROPERTY]: structuredClone(run) };
    tracker.activeState = state;
    tracker.updateModified?.(); // the page keeps the workflow for a reload
}

/** The last run of a node, preferably one with its present values. @param {Node} node @returns {Run | null} */
export function lastRun(node) {
    const saved = /** @type {any} */ (node.properties?.[PROPERTY]);
    const signature = signatureOf(node);
    const known = [runs.get(exactKey(String(node.id), signature)), runs.get(keyOf(node)), saved];
    const found = known.filter((run) => Array.isArray(run?.reports) && run.reports.length);
    return found.find((run) => run.signature === signature) ?? found[0] ?? null;
}

/** Whether values, connections and files are still those of the run. @param {Node} node @param {Run} run */
export async function isPresent(node, run) {
    if (run.signature !== signatureOf(node)) return false;
    if (await sameFiles(run)) return true;
    await listAdapters({ fresh: true }); // the list may be older than the run
    return sameFiles(run);
}

/** @param {Run} run */
async function sameFiles({ reports }) {
    for (const { file, fingerprint } of reports) {
        if (file && fingerprint && (await adapterFile(file))?.fingerprint !== fingerprint) return false;
    }
    return true;
}
