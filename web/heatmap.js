// The heat map of a file: one colour per block and kind of layer.

import { h } from "./dom.js";
import { t, told } from "./texts.js";

/**
 * A table whose cells are coloured by their share of the largest value.
 * @param {{rows: string[], columns: string[], values: (number | null)[][], relative?: boolean}} heat
 */
export function heatTable({ rows, columns, values, relative }) {
    const largest = Math.max(0, ...values.flat().map((value) => value ?? 0));
    const measure = relative ? "‖ΔW‖ / ‖W‖" : "‖ΔW‖";
    const head = h(
        "tr",
        {},
        h("th", { scope: "col" }, t("block")),
        ...columns.map((column) => h("th", { scope: "col" }, told(column))),
    );
    const body = rows.map((row, y) =>
        h(
            "tr",
            {},
            h("th", { scope: "row" }, row),
            ...columns.map((column, x) => cell(values[y][x], `${row}, ${column}`)),
        ),
    );

    /** @param {number | null} value @param {string} where */
    function cell(value, where) {
        if (value === null) return h("td.lokr-heat-none", { "aria-label": t("{where}: none", { where }) });
        const share = largest ? value / largest : 0;
        const element = h("td.lokr-heat-cell", { title: `${where}: ${measure} = ${value}` }, short(value));
        element.style.setProperty("--share", `${(100 * share).toFixed(1)}%`);
        return element;
    }

    return h(
        "table.lokr-heat",
        {},
        h(
            "caption",
            {},
            t("{measure} per block and kind of layer; the fullest colour is {largest}", {
                measure,
                largest: short(largest),
            }),
        ),
        h("thead", {}, head),
        h("tbody", {}, ...body),
    );
}

/** Three significant digits. @param {number} value */
export function short(value) {
    if (value === 0) return "0";
    return value >= 0.001 && value < 10000 ? String(Number(value.toPrecision(3))) : value.toExponential(1);
}
