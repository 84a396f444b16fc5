// A schedule's keyframes, the twin of lokr_core/strengths/_schedule.py (tests/browser/test_schedule.py compares both).

/** @typedef {[percent: number, factor: number]} Point */

/** @type {Record<string, (t: number) => number>} */
export const EASES = {
    linear: (t) => t,
    "ease in": (t) => t * t,
    "ease out": (t) => t * (2 - t),
    "ease in-out": (t) => t * t * (3 - 2 * t),
    hold: () => 0,
};

/**
 * The points of a text such as "0:0, 0.3:1"; an empty text is 1 throughout. Null if the text is malformed.
 * @param {string} text @returns {Point[] | null}
 */
export function pointsOf(text) {
    const pieces = text.split(/[\n,]/).map((piece) => piece.trim());
    /** @type {Point[]} */
    const points = [];
    for (const piece of pieces.filter(Boolean)) {
        const [percent, factor, ...more] = piece.split(":").map((part) => (part.trim() ? Number(part) : NaN));
        const before = points.at(-1)?.[0] ?? 0;
        if (more.length || !(before <= percent && percent <= 1) || !Number.isFinite(factor)) return null;
        points.push([percent, factor]);
    }
    return points.length ? points : [[0, 1]];
}

/** @param {Point[]} points */
export function textOf(points) {
    const short = (/** @type {number} */ number) => String(Number(number.toFixed(4)));
    return points.map(([percent, factor]) => `${short(percent)}:${short(factor)}`).join(", ");
}

/**
 * The factor at `percent`, which must be inside the window.
 * @param {Point[]} points @param {string} ease @param {number} percent
 */
export function factorAt(points, ease, percent) {
    const next = points.findIndex((point) => point[0] > percent);
    if (next === 0) return points[0][1];
    if (next === -1) return points[points.length - 1][1];
    const [[p, a], [q, b]] = [points[next - 1], points[next]];
    return a + (b - a) * (EASES[ease] ?? EASES.linear)((percent - p) / (q - p));
}

/**
 * The percentage of the nearest of `steps` steps (the first is 0, the last 1); unchanged if `steps` < 2.
 * @param {number} percent @param {number} steps
 */
export function snapped(percent, steps) {
    const bounded = Math.min(1, Math.max(0, percent));
    return steps > 1 ? Math.round(bounded * (steps - 1)) / (steps - 1) : bounded;
}
