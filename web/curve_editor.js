// The schedule's curve on its node: points moved by mouse and keys. Its state is in the node's widgets.

import { factorAt, pointsOf, snapped, textOf } from "./curve.js";
import { HEIGHT, Scale, axes, line, message, outside } from "./curve_picture.js";
import { button, h, redraw, svg } from "./dom.js";
import { after, asOneChange, beginChange, onChange, setValue, widgetOf } from "./host.js";
import { t } from "./texts.js";

/**
 * @typedef {import("./host.js").Node} Node
 * @typedef {import("./curve.js").Point} Point
 */

const SNAP = "lokr_snap_steps";

export class CurveEditor {
    /** @param {Node} node */
    constructor(node) {
        this.node = node;
        this.picture = svg("svg.lokr-curve", {
            height: HEIGHT,
            role: "group",
            "aria-label": t("Strength over sampling. Points: arrow keys move, Delete removes, Enter adds one after."),
            onpointerdown: (/** @type {PointerEvent} */ event) => this.pressed(event),
            ondblclick: (/** @type {MouseEvent} */ event) => event.stopPropagation(),
        });
        this.steps = h("input", {
            type: "number",
            min: 0,
            max: 1000,
            title: t("Points snap to this many steps; 0 turns it off"),
            "aria-label": t("Snap to steps, 0 for none"),
            onchange: () => this.snapTo(Number(this.steps.value)),
        });
        this.steps.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => event.stopPropagation());
        const bar = h(
            "div.lokr-bar",
            {},
            button(t("Add a point"), t("+ point"), () => this.add()),
            button(t("A straight line at 1"), t("reset"), () => this.write([], 0)),
            h("label", {}, t("snap to steps"), " ", this.steps),
        );
        this.element = h("div", {}, this.picture, bar);
        this.width = 300;
        /** @type {[number, number] | null} the range of factors while a point is dragged */
        this.held = null;
        this.selected = 0;
        for (const name of ["keyframes", "ease", "start", "end"]) {
            const widget = widgetOf(node, name);
            if (widget) onChange(widget, () => this.draw());
        }
        after(node, "onConfigure", () => this.draw());
        new ResizeObserver(() => {
            this.width = this.picture.clientWidth || this.width;
            this.draw();
        }).observe(this.element);
        this.draw();
    }

    /** @param {string} name @returns {any} */
    value(name) {
        return widgetOf(this.node, name)?.value;
    }

    get points() {
        return pointsOf(String(this.value("keyframes") ?? ""));
    }

    get snap() {
        return Number(this.node.properties?.[SNAP] ?? 0);
    }

    /** @param {number} steps */
    snapTo(steps) {
        asOneChange(() => this.node.setProperty(SNAP, Math.max(0, Math.round(steps) || 0)));
        this.draw();
    }

    /** @param {Point[]} points @param {number} selected */
    write(points, selected) {
        const widget = widgetOf(this.node, "keyframes");
        if (!widget) return;
        this.selected = selected;
        asOneChange(() => setValue(this.node, widget, textOf(points)));
        this.draw(`point-${selected}`);
    }

    /** The scale of the picture, which stays the same while a point is dragged. @param {Point[]} points */
    scale(points) {
        return new Scale(this.width, this.held ?? Scale.rangeOf(points));
    }

    /** The point under the mouse. @param {PointerEvent} event @param {Scale} scale @returns {Point} */
    at(event, scale) {
        const box = this.picture.getBoundingClientRect();
        const zoom = box.width / this.width || 1;
        const [percent, factor] = scale.pointAt((event.clientX - box.left) / zoom, (event.clientY - box.top) / zoom);
        return [snapped(percent, this.snap), Math.round(factor * 100) / 100];
    }

    /** @param {string} [key] */
    draw(key) {
        const { points, picture } = this;
        if (document.activeElement !== this.steps) this.steps.value = String(this.snap);
        picture.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
        if (!points) {
            redraw(picture, [message(t("These keyframes are not a curve: see the text above."))]);
            return;
        }
        const scale = this.scale(points);
        const [start, end] = [Number(this.value("start") ?? 0), Number(this.value("end") ?? 1)];
        const dots = points.map((point, index) => this.dot(point, index, scale));
        const curve = line(scale, points, String(this.value("ease")));
        redraw(picture, [...axes(scale, this.snap), ...outside(scale, start, end), curve, ...dots], key);
    }

    /** @param {Point} point @param {number} index @param {Scale} scale */
    dot([percent, factor], index, scale) {
        const label = `at ${(100 * percent).toFixed(1)}%: ${factor.toFixed(2)}`;
        return svg(
            "circle.lokr-point",
            {
                cx: scale.x(percent),
                cy: scale.y(factor),
                r: 6,
                tabindex: 0,
                role: "slider",
                "aria-label": t("Point {number}", { number: index + 1 }),
                "aria-valuenow": factor,
                "aria-valuetext": label,
                "data-key": `point-${index}`,
                onfocus: () => (this.selected = index),
                onkeydown: (/** @type {KeyboardEvent} */ event) => this.key(event, index),
            },
            svg("title", {}, label),
        );
    }

    /** @param {KeyboardEvent} event @param {number} index */
    key(event, index) {
        const { points } = this;
        if (!points || event.ctrlKey || event.metaKey || event.altKey) return;
        const [percent, factor] = points[index];
        const across = this.snap > 1 ? 1 / (this.snap - 1) : event.shiftKey ? 0.01 : 0.05;
        const up = event.shiftKey ? 0.01 : 0.05;
        /** @type {Record<string, () => void>} */
        const keys = {
            ArrowLeft: () => this.put(index, [percent - across, factor]),
            ArrowRight: () => this.put(index, [percent + across, factor]),
            ArrowUp: () => this.put(index, [percent, factor + up]),
            ArrowDown: () => this.put(index, [percent, factor - up]),
            Delete: () => this.remove(index),
            Backspace: () => this.remove(index),
            Enter: () => this.add(),
        };
        if (!keys[event.key]) return;
        event.preventDefault();
        event.stopPropagation();
        keys[event.key]();
    }

    /** Move a point, at most as far as its neighbours. @param {number} index @param {Point} point */
    put(index, [percent, factor]) {
        const { points } = this;
        if (!points) return;
        const [low, high] = [points[index - 1]?.[0] ?? 0, points[index + 1]?.[0] ?? 1];
        const across = Math.min(high, Math.max(low, snapped(percent, this.snap)));
        points[index] = [across, Math.round(factor * 100) / 100];
        this.write(points, index);
    }

    /** @param {number} index */
    remove(index) {
        /** @type {Point[]} */
        const points = this.points?.filter((_, other) => other !== index) ?? [];
        this.write(points, Math.max(0, Math.min(index, points.length - 1)));
    }

    /** Add a point between the selected one and the next, or the end. */
    add() {
        /** @type {Point[]} */
        const points = this.points ?? [];
        const index = Math.min(this.selected, points.length - 1);
        const [from, to] = [points[index]?.[0] ?? 0, points[index + 1]?.[0] ?? 1];
        const percent = Math.min(to, Math.max(from, snapped((from + to) / 2, this.snap)));
        const factor = points.length ? factorAt(points, String(this.value("ease")), percent) : 1;
        points.splice(index + 1, 0, [percent, Math.round(factor * 100) / 100]);
        this.write(points, index + 1);
    }

    /** A press on a point drags it, a press elsewhere adds one and drags it. @param {PointerEvent} event */
    pressed(event) {
        const points = this.points;
        const key = /** @type {Element} */ (event.target).getAttribute("data-key");
        if (!points || event.button !== 0) return;
        event.preventDefault();
        event.stopPropagation();
        const scale = this.scale(points);
        const end = beginChange();
        this.held = [scale.low, scale.high];
        let index = key ? Number(key.slice("point-".length)) : -1;
        if (index < 0) {
            const point = this.at(event, scale);
            const next = points.findIndex((other) => other[0] > point[0]);
            index = next === -1 ? points.length : next;
            // An empty text gives a point at 1, which the new point replaces.
            /** @type {Point[]} */
            const own = String(this.value("keyframes") ?? "").trim() ? points : [];
            index = Math.min(index, own.length);
            own.splice(index, 0, point);
            this.write(own, index);
        } else {
            this.draw(key ?? undefined);
        }
        this.picture.setPointerCapture(event.pointerId);
        const move = (/** @type {PointerEvent} */ moved) => this.put(index, this.at(moved, scale));
        const stop = () => {
            this.picture.removeEventListener("pointermove", move);
            this.picture.removeEventListener("lostpointercapture", stop);
            this.held = null;
            end();
            this.draw(`point-${index}`);
        };
        this.picture.addEventListener("pointermove", move);
        this.picture.addEventListener("lostpointercapture", stop);
    }
}
