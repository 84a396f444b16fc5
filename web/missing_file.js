// A node that names an adapter file which is not there, before the server refuses the run.

import { adapterFile } from "./api.js";
import { isLinked } from "./host.js";
import { readRows, rowWidget } from "./rows_model.js";

/**
 * The error of the first file that a node names and no folder has, as nodes/files.py and nodes/stack.py say it; "" if
 * all are there.
 * @param {import("./host.js").Node} node
 * @param {import("./host.js").Widget | undefined} widget with the node's one file
 */
export async function missingFile(node, widget) {
    const rows = readRows(node).map((row, index) => ({
        file: row.on ? row.lokr : "",
        widget: rowWidget(node, "lokr", index + 1),
        row: `Row ${index + 1} (${row.lokr}): `,
    }));
    for (const one of [{ file: String(widget?.value ?? ""), widget, row: "" }, ...rows]) {
        const named = one.widget && !isLinked(node, one.widget) && one.file && one.file !== "none";
        if (named && !(await adapterFile(one.file))) return `${one.row}${errorOf(one.file)}`;
    }
    return "";
}

/** @param {string} file */
function errorOf(file) {
    const [expected, hint] = [
        "a file in models/loras or models/lokr",
        "pick another file, or put it there and press R",
    ];
    return `There is no such adapter file\n  file: ${file}\n  expected: ${expected}\n  what to do: ${hint}`;
}
