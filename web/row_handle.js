// The handle that moves a row of a list, by mouse and by keys.

import { button } from "./dom.js";
import { beginChange } from "./host.js";
import { t } from "./texts.js";

/**
 * @typedef {object} Handle
 * @property {string} name of the row
 * @property {number} index of the row
 * @property {HTMLElement} list of the rows
 * @property {(to: number) => void} move
 * @property {() => void} back draws the rows where they were
 */

/** @param {Handle} options */
export function rowHandle(options) {
    const { name, index, list, move } = options;
    const element = button(t("Move {row}: drag, or arrow up and down", { row: name }), "⠿", () => {}, {
        "data-key": `handle-${index + 1}`,
    });
    element.classList.add("lokr-handle");
    element.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
        const to = index + (event.key === "ArrowUp" ? -1 : event.key === "ArrowDown" ? 1 : NaN);
        if (Number.isNaN(to)) return;
        event.preventDefault();
        event.stopPropagation();
        if (to >= 0 && to < list.childElementCount) move(to);
    });
    element.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
        if (event.button === 0) drag(event, element, options);
    });
    return element;
}

/** @param {PointerEvent} event @param {HTMLElement} handle @param {Handle} options */
function drag(event, handle, { index: from, list, move: moveTo, back }) {
    event.preventDefault();
    event.stopPropagation();
    handle.focus({ preventScroll: true });
    handle.setPointerCapture(event.pointerId);
    const rows = /** @type {HTMLElement[]} */ ([...list.children]);
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
        if (stopped.type === "pointerup" && to !== from) moveTo(to);
        else back();
        end();
    };
    handle.addEventListener("pointermove", move);
    handle.addEventListener("pointerup", stop);
    handle.addEventListener("pointercancel", stop);
}

/** @param {HTMLElement} element */
function middle(element) {
    const { top, height } = element.getBoundingClientRect();
    return top + height / 2;
}
