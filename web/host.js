// ComfyUI's front end: the only file that imports it, with the helpers for its graph.

// @ts-expect-error ComfyUI serves this URL beside every pack's folder; no such file exists here.
import { app as comfyApp } from "../../scripts/app.js";
// @ts-expect-error the same
import { api as comfyApi } from "../../scripts/api.js";

/**
 * @typedef {import("@comfyorg/comfyui-frontend-types").ComfyApp} ComfyApp
 * @typedef {import("@comfyorg/comfyui-frontend-types").ComfyApi} ComfyApi
 * @typedef {NonNullable<ReturnType<ComfyApp["graph"]["getNodeById"]>>} Node
 * @typedef {NonNullable<Node["widgets"]>[number] & {onRemove?: () => void}} Widget
 * @typedef {(name: string, type: string, element: HTMLElement, options: object) => Widget} AddDomWidget
 * @typedef {Node & {addDOMWidget?: AddDomWidget}} WithDomWidgets
 */

/** @type {ComfyApp} */
export const app = comfyApp;
/** @type {ComfyApi} */
export const api = comfyApi;

/**
 * Do `change` as one step of the graph's undo.
 * @template T
 * @param {() => T} change
 * @returns {T}
 */
export function asOneChange(change) {
    const end = beginChange();
    try {
        return change();
    } finally {
        end();
    }
}

/** Begin one step of the graph's undo, such as a drag; the returned function ends it. */
export function beginChange() {
    const canvas = app.canvas;
    let open = true;
    canvas?.emitBeforeChange?.();
    return () => {
        if (!open) return;
        open = false;
        canvas?.emitAfterChange?.();
        canvas?.setDirty?.(true, true);
    };
}

/** Call `then` once the change is drawn: at once on the canvas, a frame later for Vue nodes, which measure first. */
export function whenDrawn(/** @type {() => void} */ then) {
    if (vueNodes()) requestAnimationFrame(() => requestAnimationFrame(then));
    else then();
}

/**
 * @param {Node} node
 * @param {string} name
 * @returns {Widget | undefined}
 */
export function widgetOf(node, name) {
    return node.widgets?.find((widget) => widget.name === name);
}

/**
 * Set a widget's value and call its listeners, as if the user had done it.
 * @param {Node} node
 * @param {Widget} widget
 * @param {any} value
 */
export function setValue(node, widget, value) {
    const before = widget.value;
    if (before === value) return;
    widget.value = value;
    widget.callback?.(value, app.canvas, node);
    node.onWidgetChanged?.(widget.name, value, before, widget); // clears the page's message about the old value
    node.setDirtyCanvas?.(true, true);
}

/**
 * The same for a number of any size: the callback of ComfyUI's sliders puts it back between their ends.
 * @param {Node} node
 * @param {Widget} widget
 * @param {number} value
 */
export function setNumber(node, widget, value) {
    setValue(node, widget, value);
    if (widget.value !== value) widget.value = value;
}

/**
 * Call `listener` after a widget's own callback.
 * @param {Widget} widget
 * @param {() => void} listener
 */
export function onChange(widget, listener) {
    const before = widget.callback;
    widget.callback = function (...args) {
        const result = before?.apply(this, args);
        listener();
        return result;
    };
}

/**
 * Call `listener` after the node's own handler of an event (`onAdded`, `onConfigure`, `onRemoved`).
 * @param {Node} node
 * @param {"onAdded" | "onConfigure" | "onRemoved" | "onConnectionsChange"} event
 * @param {(...args: any[]) => void} listener
 */
export function after(node, event, listener) {
    const handlers = /** @type {Record<string, Function | undefined>} */ (/** @type {unknown} */ (node));
    const before = handlers[event];
    handlers[event] = function (/** @type {any[]} */ ...args) {
        const result = before?.apply(this, args);
        listener(...args);
        return result;
    };
}

/**
 * All nodes of the workflow with their execution ids, those in subgraphs too.
 * @param {any} [graph] @param {string} [path] @returns {Generator<[Node, string]>}
 */
export function* allNodes(graph = app.rootGraph ?? app.graph, path = "") {
    for (const node of graph?.nodes ?? []) {
        yield [node, `${path}${node.id}`];
        if (node.subgraph) yield* allNodes(node.subgraph, `${path}${node.id}:`);
    }
}

/** The node of an execution id: "12", or "12:5" for node 5 in the subgraph node 12. @param {string} id */
export function nodeOfExecution(id) {
    /** @type {any} */
    let graph = app.rootGraph ?? app.graph;
    const path = String(id).split(":");
    for (const step of path.slice(0, -1)) graph = graph?.getNodeById(step)?.subgraph;
    return /** @type {Node | null} */ (graph?.getNodeById(path[path.length - 1]) ?? null);
}

/**
 * Follow what the page queues: `before` is called as a prompt is sent, then `accepted` with its id and what `before`
 * returned, and `refused` with the errors of the server's validation by node.
 * @template T
 * @param {{before: () => T, accepted: (id: string, noted: T) => void, refused: (errors: any) => void}} listeners
 */
export function onQueue({ before, accepted, refused }) {
    const send = api.queuePrompt;
    api.queuePrompt = async function (...args) {
        const noted = before();
        try {
            const answer = await send.apply(this, args);
            if (answer.prompt_id) accepted(answer.prompt_id, noted);
            refused(answer.node_errors ?? {});
            return answer;
        } catch (error) {
            refused(/** @type {any} */ (error)?.response?.node_errors ?? {});
            throw error;
        }
    };
}

/** Whether a widget's value comes from a connection. @param {Node} node @param {Widget} widget */
export function isLinked(node, widget) {
    return Boolean(node.inputs?.some((input) => input.widget?.name === widget.name && input.link != null));
}

/**
 * Hide or show widgets, in LiteGraph (`hidden`) and in Vue nodes (`options.hidden`, read when the list is set).
 * @param {Node} node
 * @param {(widget: Widget) => boolean} isHidden
 */
export function hideWidgets(node, isHidden) {
    let changed = false;
    for (const widget of node.widgets ?? []) {
        const hidden = isHidden(widget);
        if (Boolean(widget.hidden) === hidden) continue;
        widget.hidden = hidden;
        widget.options.hidden = hidden;
        changed = true;
    }
    if (changed) node.widgets = [...(node.widgets ?? [])];
}

/** Whether nodes are drawn by Vue ("Nodes 2.0"), which does its own layout, instead of LiteGraph's canvas. */
export function vueNodes() {
    return Boolean(/** @type {any} */ (window).LiteGraph?.vueNodesMode);
}

/**
 * The nodes connected to an output of `node`.
 * @param {Node} node
 * @param {number} [slot]
 * @returns {Node[]}
 */
export function nodesAfter(node, slot = 0) {
    const links = node.outputs?.[slot]?.links ?? [];
    const targets = links.map((id) => node.graph?.getLink?.(id)?.target_id);
    const found = targets.map((id) => (id == null ? null : node.graph?.getNodeById(id)));
    return /** @type {Node[]} */ (found.filter((other) => other != null));
}
