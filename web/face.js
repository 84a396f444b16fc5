// A DOM element on a node, as high as its content.

import { h } from "./dom.js";
import { after, vueNodes } from "./host.js";

/** @typedef {import("./host.js").Node} Node */

const MARGIN = 4;

/** @type {Map<string, {node: Node, element: HTMLElement}>} node id and name -> the newest face */
const faces = new Map();

/**
 * Append `content` to a node's widgets; it is neither saved nor sent. Null if the front end has no DOM widgets, which
 * leaves the node's own widgets.
 * @param {Node} node
 * @param {string} name the same in every session: apps save it
 * @param {string} label what an app and its builder call the face
 * @param {HTMLElement} content
 * @param {number} height estimate until it is on the page
 */
export function addFace(node, name, label, content, height) {
    const host = /** @type {import("./host.js").WithDomWidgets} */ (node);
    if (typeof host.addDOMWidget !== "function") return null;
    const inner = h("div.lokr-face", {}, content);
    const outer = h("div.lokr-face-host", {}, inner);
    const widget = host.addDOMWidget(name, "lokr", outer, {
        serialize: false,
        hideInPanel: true, // the panel would take the element, and set the widget's width to its own
        hideOnZoom: false,
        margin: MARGIN,
        getMinHeight: () => height + 2 * MARGIN,
        getMaxHeight: () => height + 2 * MARGIN,
        getValue: () => "",
        setValue: () => {},
    });
    widget.serialize = false;
    widget.label = label;
    after(node, "onAdded", () => takePlace(node, name, outer));

    /** Fit the face's height to its content, and the node's to the face. */
    const fit = () => {
        const was = node.computeSize()[1];
        height = inner.offsetHeight || height;
        const needed = node.computeSize()[1];
        // Extra height of the node is the user's choice: keep it.
        if (node.size[1] < needed || node.size[1] <= was + 1) resize(node, needed);
    };
    new ResizeObserver(() => {
        if (!vueNodes() && inner.offsetHeight && Math.abs(inner.offsetHeight - height) >= 1) fit();
    }).observe(inner);
    return { fit };
}

/**
 * Put a face where the page shows that of the node's predecessor. An undo replaces a node by one with the same id, and
 * Vue nodes, which identify a widget by node id and name, keep the old element.
 * @param {Node} node @param {string} name @param {HTMLElement} element
 */
function takePlace(node, name, element) {
    const replace = () => {
        const key = `${node.id}/${name}`;
        const old = faces.get(key);
        if (node.graph?.getNodeById(node.id) !== node) return;
        if (element.isConnected || !old) faces.set(key, { node, element });
        const gone = old && old.node.graph?.getNodeById(old.node.id) !== old.node;
        if (!gone || !old.element.isConnected || element.isConnected) return;
        old.element.replaceWith(element);
        faces.set(key, { node, element });
    };
    // The page has drawn the new node by then; a page that has just started draws late.
    requestAnimationFrame(() => requestAnimationFrame(replace));
    setTimeout(replace, 1000);
}

/** @param {Node} node @param {number} height */
export function resize(node, height) {
    node.setSize([node.size[0], height]);
    node.setDirtyCanvas(true, true);
}
