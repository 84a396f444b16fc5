// The schedule's curve on its node: points moved by mouse and keys. All it holds is the node's widgets.

import { factorAt, pointsOf, snapped, textOf } from "./curve.js";
import { button, h, redraw, svg } from "./dom.js";
import { after, asOneChange, beginChange, onChange, setValue, widgetOf } from "./host.js";

/**
 * @typedef {import("./host.js").Node} Node
 * @typedef {import("./curve.js").Point} Point
 */

const HEIGHT = 150;
const PAD = { left: 30, right: 18, top: 10, bottom: 20 };
const SNAP = "lokr_snap_steps";

export class CurveEditor {
    /** @param {Node} node */
    constructor(node) {
        this.node = node;
        this.picture = svg("svg.lokr-curve", {
            height: HEIGHT,
            role: "group",
            "aria-label": "Strength over sampling. Points: arrow keys move, Delete removes, Enter adds one after.",
            onpointerdown: (/** @type {PointerEvent} */ event) => this.pressed(event),
            ondblclick: (/** @type {MouseEvent} */ event) => event.stopPropagation(),
        });
        this.steps = h("input", {
            type: "number",
            min: 0,
            max: 1000,
            title: "Points snap to this many steps; 0: they do not",
            "aria-label": "Snap to steps, 0 for none",
            onchange: () => this.snapTo(Number(this.steps.value)),
        });
        this.steps.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => event.stopPropagation());
        const bar = h(
            "div.lokr-bar",
            {},
            button("Add a point", "+ point", () => this.add()),
            button("A straight line at 1", "reset", () => this.write([], 0)),
            h("label", {}, "snap to steps ", this.steps),
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

    /** The factors at the bottom and the top of the picture. @param {Point[]} points @returns {[number, number]} */
    range(points) {
        if (this.held) return this.held;
        const factors = points.map((point) => point[1]);
        const [low, high] = [Math.min(0, ...factors), Math.max(1, ...factors)];
        const room = (high - low) * 0.15;
        return [low < 0 ? low - room : 0, high + room];
    }

    /** @param {number} percent */
    x(percent) {
        return PAD.left + percent * (this.width - PAD.left - PAD.right);
    }

    /** @param {number} factor @param {[number, number]} range */
    y(factor, [low, high]) {
        return HEIGHT - PAD.bottom - ((factor - low) / (high - low)) * (HEIGHT - PAD.top - PAD.bottom);
    }

    /** The point under the mouse. @param {PointerEvent} event @param {[number, number]} range @returns {Point} */
    at(event, [low, high]) {
        const box = this.picture.getBoundingClientRect();
        const zoom = box.width / this.width || 1;
        const across = ((event.clientX - box.left) / zoom - PAD.left) / (this.width - PAD.left - PAD.right);
        const up = 1 - ((event.clientY - box.top) / zoom - PAD.top) / (HEIGHT - PAD.top - PAD.bottom);
        const factor = low + Math.min(1, Math.max(0, up)) * (high - low);
        return [snapped(across, this.snap), Math.round(factor * 100) / 100];
    }

    /** @param {string} [key] */
    draw(key) {
        const { points, picture } = this;
        if (document.activeElement !== this.steps) this.steps.value = String(this.snap);
        picture.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
        if (!points) {
            const text = svg(
                "text",
                { x: PAD.left, y: HEIGHT / 2 },
                "These keyframes are no curve: see the text above.",
            );
            redraw(picture, [text]);
            return;
        }
        const range = this.range(points);
        const dots = points.map((point, index) => this.dot(point, index, range));
        redraw(picture, [...this.axes(range), ...this.outside(), this.line(points, range), ...dots], key);
    }

    /** @param {[number, number]} range */
    axes(range) {
        const lines = [];
        for (const factor of new Set([range[0], 0, 1])) {
            const y = this.y(factor, range);
            lines.push(svg("line.lokr-axis", { x1: PAD.left, x2: this.width - PAD.right, y1: y, y2: y }));
            lines.push(
                svg("text", { x: PAD.left - 5, y: y + 3, "text-anchor": "end" }, String(Number(factor.toFixed(2)))),
            );
        }
        const marks = this.snap > 1 && this.snap <= 100 ? this.snap - 1 : 4;
        for (let mark = 0; mark <= marks; mark++) {
            const x = this.x(mark / marks);
            lines.push(svg("line.lokr-axis", { x1: x, x2: x, y1: PAD.top, y2: HEIGHT - PAD.bottom }));
        }
        for (const percent of [0, 0.5, 1]) {
            const text = svg(
                "text",
                { x: this.x(percent), y: HEIGHT - 6, "text-anchor": "middle" },
                `${100 * percent}%`,
            );
            lines.push(text);
        }
        return lines;
    }

    /** What is before the start and after the end, where the strength is 0. */
    outside() {
        const [start, end] = [Number(this.value("start") ?? 0), Number(this.value("end") ?? 1)];
        const parts = [
            [0, start],
            [end, 1],
        ].filter(([from, to]) => to > from);
        return parts.map(([from, to]) =>
            svg("rect.lokr-outside", {
                x: this.x(from),
                width: this.x(to) - this.x(from),
                y: PAD.top,
                height: HEIGHT - PAD.top - PAD.bottom,
            }),
        );
    }

    /** @param {Point[]} points @param {[number, number]} range */
    line(points, range) {
        const ease = String(this.value("ease"));
        const percents = Array.from({ length: 101 }, (_, index) => index / 100);
        const curve = percents.map((percent) => [percent, factorAt(points, ease, percent)]);
        // Jumps stand where they are, not at the next hundredth.
        for (const [percent, factor] of points) {
            curve.push([percent - 1e-7, factorAt(points, ease, percent - 1e-7)], [percent, factor]);
            curve.push([percent + 1e-7, factorAt(points, ease, percent + 1e-7)]);
        }
        const path = curve
            .filter(([percent]) => percent >= 0 && percent <= 1)
            .map((point, order) => ({ point, order }))
            .sort((a, b) => a.point[0] - b.point[0] || a.order - b.order)
            .map(({ point: [percent, factor] }) => `${this.x(percent).toFixed(2)},${this.y(factor, range).toFixed(2)}`);
        return svg("polyline.lokr-line", { points: path.join(" ") });
    }

    /** @param {Point} point @param {number} index @param {[number, number]} range */
    dot([percent, factor], index, range) {
        const said = `at ${(100 * percent).toFixed(1)}%: ${factor.toFixed(2)}`;
        return svg(
            "circle.lokr-point",
            {
                cx: this.x(percent),
                cy: this.y(factor, range),
                r: 6,
                tabindex: 0,
                role: "slider",
                "aria-label": `Point ${index + 1}`,
                "aria-valuenow": factor,
                "aria-valuetext": said,
                "data-key": `point-${index}`,
                onfocus: () => (this.selected = index),
                onkeydown: (/** @type {KeyboardEvent} */ event) => this.key(event, index),
            },
            svg("title", {}, said),
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

    /** Move a point, no further than its neighbours. @param {number} index @param {Point} point */
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

    /** A point between the selected one and the next, or the end. */
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

    /** A press on a point drags it, one beside all points makes one. @param {PointerEvent} event */
    pressed(event) {
        const points = this.points;
        const key = /** @type {Element} */ (event.target).getAttribute("data-key");
        if (!points || event.button !== 0) return;
        event.preventDefault();
        event.stopPropagation();
        const range = this.range(points);
        const end = beginChange();
        this.held = range;
        let index = key ? Number(key.slice("point-".length)) : -1;
        if (index < 0) {
            const point = this.at(event, range);
            const next = points.findIndex((other) => other[0] > point[0]);
            index = next === -1 ? points.length : next;
            // The line of an empty text is no point that anyone made.
            /** @type {Point[]} */
            const own = String(this.value("keyframes") ?? "").trim() ? points : [];
            index = Math.min(index, own.length);
            own.splice(index, 0, point);
            this.write(own, index);
        } else {
            this.draw(key ?? undefined);
        }
        this.picture.setPointerCapture(event.pointerId);
        const move = (/** @type {PointerEvent} */ moved) => this.put(index, this.at(moved, range));
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
