// A DOM element on a node, as high as its content.

import { h } from "./dom.js";
import { vueNodes } from "./host.js";

/** @typedef {import("./host.js").Node} Node */

const MARGIN = 4;

/** Counter for unique names: Vue nodes identify a widget by node id and name, and would keep showing the old face of a
 * node that an undo replaced by one with the same id. */
let made = 0;

/**
 * Append `content` to a node's widgets; it is neither saved nor sent. Null if the front end has no DOM widgets, which
 * leaves the node's own widgets.
 * @param {Node} node
 * @param {string} name
 * @param {HTMLElement} content
 * @param {number} height estimate until it is on the page
 */
export function addFace(node, name, content, height) {
    const host = /** @type {import("./host.js").WithDomWidgets} */ (node);
    if (typeof host.addDOMWidget !== "function") return null;
    const inner = h("div.lokr-face", {}, content);
    const outer = h("div.lokr-face-host", {}, inner);
    const widget = host.addDOMWidget(`${name}#${++made}`, "lokr", outer, {
        serialize: false,
        hideOnZoom: false,
        margin: MARGIN,
        getMinHeight: () => height + 2 * MARGIN,
        getMaxHeight: () => height + 2 * MARGIN,
        getValue: () => "",
        setValue: () => {},
    });
    widget.serialize = false;

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

/** @param {Node} node @param {number} height */
export function resize(node, height) {
    node.setSize([node.size[0], height]);
    node.setDirtyCanvas(true, true);
}
