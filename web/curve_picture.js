// The passive parts of a schedule's picture: axes, the run outside the window, the curve.

import { factorAt } from "./curve.js";
import { svg } from "./dom.js";

/** @typedef {import("./curve.js").Point} Point */

export const HEIGHT = 150;
const PAD = { left: 30, right: 18, top: 10, bottom: 20 };

/** The scale between (percent, factor) and pixels of a picture `HEIGHT` high. */
export class Scale {
    /** @param {number} width pixels @param {[number, number]} range the factors at the bottom and the top */
    constructor(width, [low, high]) {
        this.width = width;
        this.low = low;
        this.high = high;
    }

    /** @param {number} percent */
    x(percent) {
        return PAD.left + percent * (this.width - PAD.left - PAD.right);
    }

    /** @param {number} factor */
    y(factor) {
        return HEIGHT - PAD.bottom - ((factor - this.low) / (this.high - this.low)) * (HEIGHT - PAD.top - PAD.bottom);
    }

    /**
     * The point at a pixel; its factor stays within the picture.
     * @param {number} x @param {number} y @returns {Point}
     */
    pointAt(x, y) {
        const up = 1 - (y - PAD.top) / (HEIGHT - PAD.top - PAD.bottom);
        const factor = this.low + Math.min(1, Math.max(0, up)) * (this.high - this.low);
        return [(x - PAD.left) / (this.width - PAD.left - PAD.right), factor];
    }

    /** The range of factors that shows all points, and 0 and 1. @param {Point[]} points @returns {[number, number]} */
    static rangeOf(points) {
        const factors = points.map((point) => point[1]);
        const [low, high] = [Math.min(0, ...factors), Math.max(1, ...factors)];
        const margin = (high - low) * 0.15;
        return [low < 0 ? low - margin : 0, high + margin];
    }
}

/** @param {Scale} scale @param {number} snap number of steps, marked if there are few */
export function axes(scale, snap) {
    const { width } = scale;
    const lines = [];
    for (const factor of new Set([scale.low, 0, 1])) {
        const y = scale.y(factor);
        const label = String(Number(factor.toFixed(2)));
        lines.push(svg("line.lokr-axis", { x1: PAD.left, x2: width - PAD.right, y1: y, y2: y }));
        lines.push(svg("text", { x: PAD.left - 5, y: y + 3, "text-anchor": "end" }, label));
    }
    const marks = snap > 1 && snap <= 100 ? snap - 1 : 4;
    for (let mark = 0; mark <= marks; mark++) {
        const x = scale.x(mark / marks);
        lines.push(svg("line.lokr-axis", { x1: x, x2: x, y1: PAD.top, y2: HEIGHT - PAD.bottom }));
    }
    for (const percent of [0, 0.5, 1]) {
        const place = { x: scale.x(percent), y: HEIGHT - 6, "text-anchor": "middle" };
        lines.push(svg("text", place, `${100 * percent}%`));
    }
    return lines;
}

/**
 * The parts of the run before `start` and after `end`, where the strength is 0.
 * @param {Scale} scale @param {number} start @param {number} end
 */
export function outside(scale, start, end) {
    const parts = [
        [0, start],
        [end, 1],
    ].filter(([from, to]) => to > from);
    return parts.map(([from, to]) =>
        svg("rect.lokr-outside", {
            x: scale.x(from),
            width: scale.x(to) - scale.x(from),
            y: PAD.top,
            height: HEIGHT - PAD.top - PAD.bottom,
        }),
    );
}

/** @param {Scale} scale @param {Point[]} points @param {string} ease */
export function line(scale, points, ease) {
    const percents = Array.from({ length: 101 }, (_, index) => index / 100);
    const curve = percents.map((percent) => [percent, factorAt(points, ease, percent)]);
    // A jump is drawn at its own percentage, not at the next hundredth.
    for (const [percent, factor] of points) {
        curve.push([percent - 1e-7, factorAt(points, ease, percent - 1e-7)], [percent, factor]);
        curve.push([percent + 1e-7, factorAt(points, ease, percent + 1e-7)]);
    }
    const path = curve
        .filter(([percent]) => percent >= 0 && percent <= 1)
        .map((point, order) => ({ point, order }))
        .sort((a, b) => a.point[0] - b.point[0] || a.order - b.order)
        .map(({ point: [percent, factor] }) => `${scale.x(percent).toFixed(2)},${scale.y(factor).toFixed(2)}`);
    return svg("polyline.lokr-line", { points: path.join(" ") });
}

/** Text in the middle of the picture. @param {string} text */
export function message(text) {
    return svg("text", { x: PAD.left, y: HEIGHT / 2 }, text);
}
