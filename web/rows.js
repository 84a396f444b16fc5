// The stack's rows: switch, file, strengths, order, for mouse and keyboard. Their state is in the node's widgets.

import { chooseFile, offeredBy } from "./chooser.js";
import { button, h, redraw } from "./dom.js";
import { resize } from "./face.js";
import { connectedModel } from "./connected_model.js";
import { after, beginChange, hideWidgets, isLinked, onChange, setNumber, setValue, whenDrawn } from "./host.js";
import { showInfo } from "./info.js";
import { peekAt } from "./preview.js";
import { rowHandle } from "./row_handle.js";
import { canAdd, isRowWidget, moved, readRows, repeated, rowWidget, writeRows } from "./rows_model.js";
import { LIMIT, slider } from "./slider.js";
import { beginWithOne, isOne, ONE, oneButton, PLAIN } from "./strengths.js";
import { t, toldLines } from "./texts.js";

/**
 * @typedef {import("./host.js").Node} Node
 * @typedef {import("./host.js").Widget} Widget
 * @typedef {import("./rows_model.js").Row} Row
 */

export class Rows {
    /** @param {Node} node */
    constructor(node) {
        this.node = node;
        this.list = h("div.lokr-rows", { role: "list", "aria-label": t("Adapters, first to last") });
        this.bar = h("div.lokr-bar");
        this.status = h("span.lokr-hidden", { role: "status" });
        this.told = h("p.lokr-told", { role: "status", hidden: true, "data-key": "told" });
        this.element = h("div", {}, this.list, this.told, this.bar, this.status);
        /** @type {Map<number, {level: string, text: string}>} what the last run made of each row */
        this.marks = new Map();
        /** @type {WeakSet<Widget>} */
        this.heard = new WeakSet();
        this.busy = false;
        const first = rowWidget(node, "lokr", 1);
        if (first) first.value = ""; // a new node has no file; a loaded one gets its own after this
        beginWithOne(node);
        /** Set by the face that holds the rows. */
        this.fit = () => {};
        /** Called after the rows were drawn. */
        this.onDrawn = () => {};
        after(node, "onConfigure", (saved) => {
            this.draw();
            this.fit();
            // While loading, opened rows made the node grow before they were hidden.
            if (saved?.size) resize(node, saved.size[1]);
        });
        after(node, "onConnectionsChange", () => this.draw());
        this.draw();
    }

    get plain() {
        return Boolean(this.node.properties?.[PLAIN]);
    }

    /** Redraw the rows from the widgets; `key`: the element that gets the focus. @param {string} [key] */
    draw(key) {
        if (this.busy) return;
        const { node } = this;
        for (const widget of node.widgets?.filter(isRowWidget) ?? []) {
            if (this.heard.has(widget)) continue;
            this.heard.add(widget);
            onChange(widget, () => this.draw());
        }
        // A widget with a connection stays visible: its link needs an end.
        hideWidgets(node, (widget) =>
            isRowWidget(widget) ? !this.plain && !isLinked(node, widget) : Boolean(widget.hidden),
        );
        this.element.hidden = this.plain;
        const rows = readRows(node);
        redraw(
            this.list,
            rows.map((row, index) => this.row(row, index, rows.length)),
            key,
        );
        this.showMarks();
        this.told.textContent = repeated(rows)
            .map(({ file, numbers }) =>
                t("{file} is in rows {rows}: its strengths add up", { file, rows: numbers.join(` ${t("and")} `) }),
            )
            .join("\n");
        this.told.hidden = !this.told.textContent;
        redraw(this.bar, this.buttons(rows), key);
        this.onDrawn();
    }

    /** Colour the rows of a run. @param {import("./badge.js").Report[]} reports */
    mark(reports) {
        this.marks = new Map(
            reports.filter(({ row }) => row).map(({ row, level, summary }) => [Number(row), { level, text: summary }]),
        );
        this.showMarks();
    }

    /** Colour the row that an error names. @param {string} message */
    markError(message) {
        const row = /\bRow (\d+) \(/.exec(message)?.[1]; // as nodes/stack.py begins it
        this.marks = new Map(row ? [[Number(row), { level: "error", text: message }]] : []);
        this.showMarks();
    }

    showMarks() {
        [...this.list.children].forEach((element, index) => {
            const { level = "", text = "" } = this.marks.get(index + 1) ?? {};
            element.dataset.level = level;
            element.title = level === "ok" ? "" : toldLines(text);
        });
    }

    /**
     * Change the widgets, redraw, and fit the node's height, as one step of the graph's undo.
     * @param {() => void} change @param {string} [key]
     */
    change(change, key) {
        const { node } = this;
        const end = beginChange();
        const room = Math.max(0, node.size[1] - node.computeSize()[1]);
        this.busy = true;
        try {
            change();
        } finally {
            this.busy = false;
        }
        this.draw(key);
        this.fit();
        resize(node, node.computeSize()[1] + room);
        whenDrawn(end);
    }

    /** @param {Row[]} rows @param {string} [key] */
    write(rows, key) {
        this.change(() => writeRows(this.node, rows), key);
    }

    /** @param {Row} row @param {number} index @param {number} count */
    row(row, index, count) {
        const number = index + 1;
        const name = t("row {number}, {file}", { number, file: row.lokr });
        const toggle = h("button.lokr-toggle", {
            type: "button",
            role: "switch",
            title: row.on ? t("Switch this row off") : t("Switch this row on"),
            "aria-checked": String(row.on),
            "aria-label": name,
            "data-key": `on-${number}`,
            onclick: () => this.set("on", number, !row.on),
        });
        const label = t("{file}: choose another file for row {number}", { file: row.lokr, number });
        const file = button(label, row.lokr || t("choose a file"), () => this.choose(number));
        peekAt(file, () => row.lokr);
        file.classList.add("lokr-file-button");
        file.dataset.key = `file-${number}`;
        const remove = button(t("Remove {row}", { row: name }), "✕", () => this.remove(index), {
            "data-key": `remove-${number}`,
        });
        remove.disabled = count === 1;
        const element = h(
            "div.lokr-row",
            { role: "listitem" },
            rowHandle({
                name,
                index,
                list: this.list,
                move: (to) => this.move(index, to),
                back: () => this.draw(),
            }),
            toggle,
            file,
            ...this.strengths(number, row),
            button(t("Info on {file}", { file: row.lokr }), "i", () => showInfo(row.lokr), {
                "data-key": `info-${number}`,
            }),
            remove,
        );
        element.classList.toggle("lokr-off", !row.on);
        return element;
    }

    /** The sliders of a row: one for both parts, or one for each. @param {number} number @param {Row} row */
    strengths(number, row) {
        const fields = /** @type {const} */ (["strength_model", "strength_clip"]);
        const widgets = fields.map((field) => /** @type {Widget} */ (rowWidget(this.node, field, number)));
        const linked = widgets.some((widget) => isLinked(this.node, widget));
        if (!linked && isOne(this.node, row.strength_model, row.strength_clip)) {
            return [this.strength(t("strength"), number, row, widgets, fields[0])];
        }
        const [model, clip] = widgets;
        return [
            this.strength(t("model"), number, row, [model], fields[0]),
            this.strength(t("clip"), number, row, [clip], fields[1]),
        ];
    }

    /**
     * @param {string} text @param {number} number @param {Row} row @param {Widget[]} widgets
     * @param {"strength_model" | "strength_clip"} field
     */
    strength(text, number, row, widgets, field) {
        const { min = -LIMIT, max = LIMIT } = /** @type {any} */ (widgets[0].options);
        return slider({
            label: t("{part} of row {number}, {file}", { part: text, number, file: row.lokr }),
            text,
            key: `${field}-${number}`,
            value: Number(row[field]),
            min,
            max,
            step: 0.01,
            disabled: isLinked(this.node, widgets[0]),
            onInput: (value) => {
                this.busy = true;
                for (const widget of widgets) setNumber(this.node, widget, value);
                this.busy = false;
            },
        });
    }

    /** @param {number} from @param {number} to */
    move(from, to) {
        this.write(moved(readRows(this.node), from, to), `handle-${to + 1}`);
        this.status.textContent = t("moved to row {number}", { number: to + 1 });
    }

    /** @param {number} index */
    remove(index) {
        const rows = readRows(this.node).filter((_, other) => other !== index);
        this.write(rows, rows.length === 1 ? "handle-1" : `remove-${Math.min(index + 1, rows.length)}`);
        this.status.textContent = t("row {number} removed", { number: index + 1 });
    }

    /** @param {import("./rows_model.js").Field} field @param {number} number @param {any} value */
    set(field, number, value) {
        const widget = rowWidget(this.node, field, number);
        if (widget) this.change(() => setValue(this.node, widget, value));
    }

    /** @param {boolean} one */
    setOne(one) {
        const rows = readRows(this.node);
        const same = one ? rows.map((row) => ({ ...row, strength_clip: row.strength_model })) : rows;
        this.change(() => {
            this.node.setProperty(ONE, one);
            writeRows(this.node, same);
        }, "one");
    }

    /** @param {number} number */
    choose(number) {
        const widget = /** @type {Widget} */ (rowWidget(this.node, "lokr", number));
        chooseFile({
            current: String(widget.value),
            offered: offeredBy(widget),
            fitting: connectedModel(this.node),
            onChoose: (name) => this.set("lokr", number, name),
        });
    }

    /** Choose a file, and add a row with it. */
    add() {
        const last = readRows(this.node).length;
        chooseFile({
            current: "",
            offered: offeredBy(rowWidget(this.node, "lokr", last)),
            fitting: connectedModel(this.node),
            onChoose: (lokr) => {
                const row = { on: true, lokr, strength_model: 1, strength_clip: 1 };
                this.write([...readRows(this.node), row], `file-${last + 1}`);
            },
        });
    }

    /** @param {Row[]} rows */
    buttons(rows) {
        const any = rows.some((row) => row.on);
        const all = any ? t("all off") : t("all on");
        const add = button(t("Add a row"), t("+ add"), () => this.add(), { "data-key": "add" });
        add.disabled = !canAdd(this.node);
        return [
            add,
            button(
                any ? t("Switch all rows off") : t("Switch all rows on"),
                all,
                () => {
                    this.write(rows.map((row) => ({ ...row, on: !any })));
                },
                { "data-key": "all" },
            ),
            oneButton(
                rows.every((row) => isOne(this.node, row.strength_model, row.strength_clip)),
                (one) => this.setOne(one),
            ),
        ];
    }
}
