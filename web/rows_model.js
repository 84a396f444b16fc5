// The stack's rows in its widgets. The last widget of a row opens the next row: row_2, row_2.row_3, ...

import { isLinked, setNumber, setValue } from "./host.js";

/**
 * @typedef {import("./host.js").Node} Node
 * @typedef {import("./host.js").Widget} Widget
 * @typedef {{on: boolean, lokr: string, strength_model: number, strength_clip: number}} Row
 * @typedef {keyof Row} Field
 */

const FIELDS = /** @type {const} */ (["on", "lokr", "strength_model", "strength_clip"]);
const PART = /(?:^|\.)(on|lokr|strength_model|strength_clip|row)_(\d+)$/;
const NONE = "none";
const ADD = "add";

/** Whether a widget is part of a row. @param {Widget} widget */
export function isRowWidget(widget) {
    return PART.test(widget.name);
}

/** @param {Node} node @param {Field | "row"} field @param {number} number from 1 */
export function rowWidget(node, field, number) {
    return node.widgets?.find((widget) => {
        const part = PART.exec(widget.name);
        return part !== null && part[1] === field && Number(part[2]) === number;
    });
}

/** @param {Node} node @returns {Row[]} */
export function readRows(node) {
    /** @type {Row[]} */
    const rows = [];
    for (let number = 1; rowWidget(node, "lokr", number); number++) {
        const values = FIELDS.map((field) => [field, rowWidget(node, field, number)?.value]);
        rows.push(Object.fromEntries(values));
    }
    return rows;
}

/** Whether another row can be opened after the last. @param {Node} node */
export function canAdd(node) {
    return Boolean(rowWidget(node, "row", readRows(node).length + 1));
}

/** Write `rows`, at least one, to the node's widgets. @param {Node} node @param {Row[]} rows */
export function writeRows(node, rows) {
    if (!rows.length) throw new Error("a stack has at least one row");
    for (let number = 2; ; number++) {
        const opener = rowWidget(node, "row", number);
        if (!opener) break;
        setValue(node, opener, number <= rows.length ? ADD : NONE);
    }
    rows.forEach((row, index) => {
        for (const field of FIELDS) {
            const widget = rowWidget(node, field, index + 1);
            if (!widget || isLinked(node, widget)) continue;
            const value = row[field];
            if (typeof value === "number") setNumber(node, widget, value);
            else setValue(node, widget, value);
        }
    });
}

/** `rows` with the one at `from` moved to `to`. @template T @param {T[]} rows @param {number} from @param {number} to */
export function moved(rows, from, to) {
    const others = rows.filter((_, index) => index !== from);
    return [...others.slice(0, to), rows[from], ...others.slice(to)];
}

/** Each file that several rows apply, with their numbers. @param {Row[]} rows */
export function repeated(rows) {
    /** @type {Map<string, number[]>} */
    const numbers = new Map();
    rows.forEach(({ on, lokr }, index) => on && lokr && numbers.set(lokr, [...(numbers.get(lokr) ?? []), index + 1]));
    return [...numbers].filter(([, all]) => all.length > 1).map(([file, all]) => ({ file, numbers: all }));
}
