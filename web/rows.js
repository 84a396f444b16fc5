// The stack's rows: switch, file, strengths, order, for mouse and keyboard. Their state is in the node's widgets.

import { chooseFile, offeredBy } from "./chooser.js";
import { button, h, redraw } from "./dom.js";
import { resize } from "./face.js";
import { after, beginChange, hideWidgets, isLinked, onChange, setValue, whenDrawn } from "./host.js";
import { showInfo } from "./info.js";
import { canAdd, isRowWidget, moved, readRows, repeated, rowWidget, writeRows } from "./rows_model.js";
import { LIMIT, slider } from "./slider.js";

/**
 * @typedef {import("./host.js").Node} Node
 * @typedef {import("./host.js").Widget} Widget
 * @typedef {import("./rows_model.js").Row} Row
 */

export const PLAIN = "lokr_plain_widgets";

export class Rows {
    /** @param {Node} node */
    constructor(node) {
        this.node = node;
        this.list = h("div.lokr-rows", { role: "list", "aria-label": "Adapters, first to last" });
        this.bar = h("div.lokr-bar");
        this.status = h("span.lokr-hidden", { role: "status" });
        this.told = h("p.lokr-told", { role: "status", hidden: true, "data-key": "told" });
        this.element = h("div", {}, this.list, this.told, this.bar, this.status);
        /** @type {Map<number, {level: string, text: string}>} what the last run made of each row */
        this.marks = new Map();
        /** @type {WeakSet<Widget>} */
        this.heard = new WeakSet();
        this.busy = false;
        /** Set by the face that holds the rows. */
        this.fit = () => {};
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
        this.told.textContent = repeated(rows).join("\n");
        this.told.hidden = !this.told.textContent;
        redraw(this.bar, this.buttons(rows), key);
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
            element.title = level === "ok" ? "" : text;
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
        const name = `row ${number}, ${row.lokr}`;
        const toggle = h("button.lokr-toggle", {
            type: "button",
            role: "switch",
            title: row.on ? "Switch this row off" : "Switch this row on",
            "aria-checked": String(row.on),
            "aria-label": name,
            "data-key": `on-${number}`,
            onclick: () => this.set("on", number, !row.on),
        });
        const file = button(`${row.lokr}: choose another file for row ${number}`, row.lokr || "choose a file", () => {
            this.choose(number);
        });
        file.classList.add("lokr-file-button");
        file.dataset.key = `file-${number}`;
        const remove = button(`Remove ${name}`, "✕", () => this.remove(index), { "data-key": `remove-${number}` });
        remove.disabled = count === 1;
        const element = h(
            "div.lokr-row",
            { role: "listitem" },
            this.handle(index, count, name),
            toggle,
            file,
            this.strength("strength_model", number, row, "model"),
            this.strength("strength_clip", number, row, "clip"),
            button(`Info on ${row.lokr}`, "i", () => showInfo(row.lokr), { "data-key": `info-${number}` }),
            remove,
        );
        element.classList.toggle("lokr-off", !row.on);
        return element;
    }

    /** @param {"strength_model" | "strength_clip"} field @param {number} number @param {Row} row @param {string} text */
    strength(field, number, row, text) {
        const widget = /** @type {Widget} */ (rowWidget(this.node, field, number));
        const { min = -LIMIT, max = LIMIT } = /** @type {any} */ (widget.options);
        return slider({
            label: `${text} strength of row ${number}, ${row.lokr}`,
            text,
            key: `${field}-${number}`,
            value: Number(row[field]),
            min,
            max,
            step: 0.01,
            disabled: isLinked(this.node, widget),
            onInput: (value) => {
                this.busy = true;
                setValue(this.node, widget, value);
                this.busy = false;
            },
        });
    }

    /** The handle that moves a row. @param {number} index @param {number} count @param {string} name */
    handle(index, count, name) {
        const element = button(`Move ${name}: drag, or arrow up and down`, "⠿", () => {}, {
            "data-key": `handle-${index + 1}`,
        });
        element.classList.add("lokr-handle");
        element.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
            const to = index + (event.key === "ArrowUp" ? -1 : event.key === "ArrowDown" ? 1 : NaN);
            if (Number.isNaN(to)) return;
            event.preventDefault();
            event.stopPropagation();
            if (to >= 0 && to < count) this.move(index, to);
        });
        element.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
            if (event.button === 0) this.drag(event, element, index);
        });
        return element;
    }

    /** @param {PointerEvent} event @param {HTMLElement} handle @param {number} from */
    drag(event, handle, from) {
        event.preventDefault();
        event.stopPropagation();
        handle.focus({ preventScroll: true });
        handle.setPointerCapture(event.pointerId);
        const rows = /** @type {HTMLElement[]} */ ([...this.list.children]);
        const end = beginChange();
        let to = from;
        rows[from].classList.add("lokr-dragged");
        const move = (/** @type {PointerEvent} */ moved) => {
            const others = rows.filter((_, index) => index !== from);
            to = others.filter((row) => middle(row) < moved.clientY).length;
            others.forEach((row, index) => {
                row.classList.toggle("lokr-drop-before", index === to);
                row.classList.toggle("lokr-drop-after", to === others.length && index === to - 1);
            });
        };
        const stop = (/** @type {PointerEvent} */ stopped) => {
            handle.removeEventListener("pointermove", move);
            handle.removeEventListener("pointerup", stop);
            handle.removeEventListener("pointercancel", stop);
            if (stopped.type === "pointerup" && to !== from) this.move(from, to);
            else this.draw();
            end();
        };
        handle.addEventListener("pointermove", move);
        handle.addEventListener("pointerup", stop);
        handle.addEventListener("pointercancel", stop);
    }

    /** @param {number} from @param {number} to */
    move(from, to) {
        this.write(moved(readRows(this.node), from, to), `handle-${to + 1}`);
        this.status.textContent = `moved to row ${to + 1}`;
    }

    /** @param {number} index */
    remove(index) {
        const rows = readRows(this.node).filter((_, other) => other !== index);
        this.write(rows, rows.length === 1 ? "handle-1" : `remove-${Math.min(index + 1, rows.length)}`);
        this.status.textContent = `row ${index + 1} removed`;
    }

    /** @param {import("./rows_model.js").Field} field @param {number} number @param {any} value */
    set(field, number, value) {
        const widget = rowWidget(this.node, field, number);
        if (widget) this.change(() => setValue(this.node, widget, value));
    }

    /** @param {number} number */
    choose(number) {
        const widget = /** @type {Widget} */ (rowWidget(this.node, "lokr", number));
        chooseFile({
            current: String(widget.value),
            offered: offeredBy(widget),
            onChoose: (name) => this.set("lokr", number, name),
        });
    }

    /** Choose a file, and add a row with it. */
    add() {
        const last = readRows(this.node).length;
        chooseFile({
            current: "",
            offered: offeredBy(rowWidget(this.node, "lokr", last)),
            onChoose: (lokr) => {
                const row = { on: true, lokr, strength_model: 1, strength_clip: 1 };
                this.write([...readRows(this.node), row], `file-${last + 1}`);
            },
        });
    }

    /** @param {Row[]} rows */
    buttons(rows) {
        const any = rows.some((row) => row.on);
        const all = any ? "all off" : "all on";
        const add = button("Add a row", "+ add", () => this.add(), { "data-key": "add" });
        add.disabled = !canAdd(this.node);
        return [
            add,
            button(
                any ? "Switch all rows off" : "Switch all rows on",
                all,
                () => {
                    this.write(rows.map((row) => ({ ...row, on: !any })));
                },
                { "data-key": "all" },
            ),
        ];
    }
}

/** @param {HTMLElement} element */
function middle(element) {
    const { top, height } = element.getBoundingClientRect();
    return top + height / 2;
}
