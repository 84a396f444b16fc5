// The strengths of a loader: one for model and clip, or two. Their numbers are in the node's own two widgets.

import { button, h, redraw } from "./dom.js";
import { after, asOneChange, hideWidgets, isLinked, onChange, setNumber, widgetOf } from "./host.js";
import { LIMIT, slider } from "./slider.js";
import { t } from "./texts.js";

/** @typedef {import("./host.js").Node} Node */

/** The node's property: whether one slider moves both. A workflow without it has two, as all had once. */
export const ONE = "lokr_one_strength";
/** The node's property: whether its own widgets are shown instead. */
export const PLAIN = "lokr_plain_widgets";

/** Whether a node shows one strength for these two. @param {Node} node @param {number} model @param {number} clip */
export function isOne(node, model, clip) {
    return Boolean(node.properties?.[ONE]) && model === clip;
}

/** New nodes begin with one strength; loaded ones are as they were saved. @param {Node} node */
export function beginWithOne(node) {
    node.properties[ONE] = true;
    after(node, "onConfigure", (saved) => {
        if (saved?.properties?.[ONE] === undefined) delete node.properties[ONE];
    });
}

/** The button that switches a node between one strength and two. @param {boolean} one @param {(one: boolean) => void} set */
export function oneButton(one, set) {
    const label = one ? t("Set model and clip apart") : t("One strength for model and clip");
    const icon = h(one ? "i.pi.pi-link" : "i.pi.pi-lock-open", { "aria-hidden": "true" });
    const element = button(label, icon, () => set(!one), { "data-key": "one" });
    element.setAttribute("aria-pressed", String(one));
    return element;
}

const NAMES = /** @type {const} */ (["strength_model", "strength_clip"]);

export class Strengths {
    /** @param {Node} node */
    constructor(node) {
        this.node = node;
        this.busy = false;
        this.element = h("div.lokr-strengths");
        /** Set by the face that holds the sliders. */
        this.fit = () => {};
        for (const name of NAMES) {
            const widget = widgetOf(node, name);
            if (widget) onChange(widget, () => this.draw());
        }
        if (widgetOf(node, "strength_clip")) beginWithOne(node);
        after(node, "onConfigure", () => this.draw());
        after(node, "onConnectionsChange", () => this.draw());
    }

    draw() {
        if (this.busy) return;
        const { node } = this;
        const plain = Boolean(node.properties?.[PLAIN]);
        const own = (/** @type {import("./host.js").Widget} */ widget) => NAMES.some((name) => name === widget.name);
        // A widget with a connection stays visible: its link needs an end.
        hideWidgets(node, (widget) => (own(widget) ? !plain && !isLinked(node, widget) : Boolean(widget.hidden)));
        this.element.hidden = plain;
        const widgets = NAMES.map((name) => widgetOf(node, name)).filter((widget) => widget !== undefined);
        const free = widgets.filter((widget) => !isLinked(node, widget));
        const [model, clip] = widgets.map((widget) => Number(widget.value));
        const one = free.length === 2 && isOne(node, model, clip);
        const sliders = one
            ? [this.slider(t("strength"), free)]
            : free.map((widget) => this.slider(widget.name === NAMES[0] ? t("model") : t("clip"), [widget]));
        redraw(this.element, [...sliders, free.length === 2 && oneButton(one, (next) => this.setOne(next))]);
        this.fit();
    }

    /** @param {string} text @param {import("./host.js").Widget[]} widgets */
    slider(text, widgets) {
        const [first] = widgets;
        const { min = -LIMIT, max = LIMIT } = /** @type {any} */ (first.options);
        const onInput = (/** @type {number} */ value) => {
            this.busy = true;
            for (const widget of widgets) setNumber(this.node, widget, value);
            this.busy = false;
        };
        const label = text === t("strength") ? text : t("{part} strength", { part: text });
        return slider({ label, text, key: first.name, value: Number(first.value), min, max, step: 0.01, onInput });
    }

    /** @param {boolean} one */
    setOne(one) {
        const [model, clip] = NAMES.map((name) => widgetOf(this.node, name));
        asOneChange(() => {
            this.node.setProperty(ONE, one);
            if (one && model && clip) setNumber(this.node, clip, Number(model.value));
        });
        this.draw();
    }
}
