// A piece of page on a node, which is as high as what it holds.

import { h } from "./dom.js";
import { vueNodes } from "./host.js";

/** @typedef {import("./host.js").Node} Node */

const MARGIN = 4;

/** How many faces there were: Vue nodes tell widgets apart by node id and name, and would go on showing the face of a
 * node that an undo replaced by one of the same id. */
let made = 0;

/**
 * Put `content` at the end of a node's widgets. It is no value: neither saved nor sent. Null where the front end has
 * no DOM widgets: the node's own widgets are all there is then.
 * @param {Node} node
 * @param {string} name
 * @param {HTMLElement} content
 * @param {number} height a first guess, until it is on the page
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

    /** Make the face as high as it is, and the node with it. */
    const fit = () => {
        const was = node.computeSize()[1];
        height = inner.offsetHeight || height;
        const needed = node.computeSize()[1];
        // A node that is higher than it had to be was made so by its user.
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
