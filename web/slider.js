// A number as a bar: dragged, changed by keys, or typed.

import { beginChange } from "./host.js";
import { h } from "./dom.js";
import { t } from "./texts.js";

/**
 * @typedef {object} SliderOptions
 * @property {string} label the accessible name
 * @property {string} [text] shown before the number
 * @property {string} key its `data-key`, which keeps the focus after a redraw
 * @property {number} value
 * @property {number} min
 * @property {number} max
 * @property {number} step per pixel, and per arrow key with Shift
 * @property {boolean} [disabled]
 * @property {(value: number) => void} onInput called on every change
 */

/** Sliders of strengths go from -LIMIT to LIMIT, as SLIDER_LIMIT in lokr_core/strengths/_text.py. */
export const LIMIT = 2;

const BIG_STEPS = 5;

/**
 * Drag: a step per pixel, with Shift a fifth. Arrow keys: five steps, with Shift one. Page keys: 25. Home, End: the
 * limits. A double click, Enter or a digit opens a text field.
 * @param {SliderOptions} options
 * @returns {HTMLElement & {value: number}}
 */
export function slider(options) {
    const { min, max, step } = options;
    const digits = Math.max(0, Math.ceil(-Math.log10(step) - 1e-9));
    let value = options.value;
    const fill = h("span.lokr-slider-fill");
    const number = h("span.lokr-slider-number");
    const element = h(
        "div.lokr-slider",
        {
            role: "slider",
            tabIndex: options.disabled ? -1 : 0,
            title: `${options.label}\n${t("drag, arrow keys, or Enter to type; Shift for fine steps")}`,
            "aria-label": options.label,
            "aria-valuemin": min,
            "aria-valuemax": max,
            "aria-disabled": Boolean(options.disabled),
            "data-key": options.key,
        },
        fill,
        options.text && h("span.lokr-slider-text", {}, options.text),
        number,
    );
    Object.defineProperty(element, "value", {
        get: () => value,
        set: (next) => {
            value = next;
            draw();
        },
    });

    function draw() {
        const part = (/** @type {number} */ at) => (Math.min(max, Math.max(min, at)) - min) / (max - min);
        const [from, to] = [part(0), part(value)].sort((a, b) => a - b);
        fill.style.left = `${100 * from}%`;
        fill.style.width = `${100 * (to - from)}%`;
        fill.classList.toggle("lokr-negative", value < 0);
        number.textContent = value.toFixed(digits);
        element.setAttribute("aria-valuenow", String(value));
        element.setAttribute("aria-valuetext", value.toFixed(digits));
    }

    /** @param {number} next @param {boolean} [free] whether it may lie beyond the ends */
    function change(next, free = false) {
        const rounded = Number((Math.round(next / step) * step).toFixed(6));
        // A typed number may lie beyond the ends; from there one can only go back.
        const bounded = free ? rounded : Math.min(Math.max(max, value), Math.max(Math.min(min, value), rounded));
        if (bounded === value || options.disabled) return;
        value = bounded;
        draw();
        options.onInput(value);
    }

    /** @param {number} next @param {boolean} [free] */
    function changeOnce(next, free = false) {
        const end = beginChange();
        change(next, free);
        end();
    }

    function type(start = number.textContent) {
        const field = h("input.lokr-slider-field", { type: "text", inputMode: "decimal", value: start });
        field.setAttribute("aria-label", options.label);
        let open = true;
        const close = (/** @type {boolean} */ keep, refocus = false) => {
            if (!open) return;
            open = false;
            const typed = Number(field.value.trim().replace(",", "."));
            field.remove();
            if (refocus) element.focus({ preventScroll: true });
            if (keep && field.value.trim() && Number.isFinite(typed)) changeOnce(typed, true);
        };
        field.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
            event.stopPropagation();
            if (event.key === "Enter" || event.key === "Escape") {
                event.preventDefault();
                close(event.key === "Enter", true);
            }
        });
        field.addEventListener("blur", () => close(true));
        element.append(field);
        field.focus({ preventScroll: true });
        if (start === number.textContent) field.select();
    }

    element.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
        if (options.disabled || event.target !== element || event.ctrlKey || event.metaKey || event.altKey) return;
        const by = step * (event.shiftKey ? 1 : BIG_STEPS);
        /** @type {Record<string, () => void>} */
        const keys = {
            ArrowRight: () => changeOnce(value + by),
            ArrowUp: () => changeOnce(value + by),
            ArrowLeft: () => changeOnce(value - by),
            ArrowDown: () => changeOnce(value - by),
            PageUp: () => changeOnce(value + step * 25),
            PageDown: () => changeOnce(value - step * 25),
            Home: () => changeOnce(min),
            End: () => changeOnce(max),
            Enter: () => type(),
        };
        const act = keys[event.key] ?? (/^[\d.-]$/.test(event.key) ? () => type(event.key) : null);
        if (!act) return;
        event.preventDefault();
        event.stopPropagation();
        act();
    });

    element.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
        if (event.button !== 0 || options.disabled || event.target instanceof HTMLInputElement) return;
        event.preventDefault();
        event.stopPropagation();
        element.focus({ preventScroll: true });
        element.setPointerCapture(event.pointerId);
        const zoom = element.getBoundingClientRect().width / element.offsetWidth || 1;
        const end = beginChange();
        let [x, at] = [event.clientX, value];
        const move = (/** @type {PointerEvent} */ moved) => {
            at += ((moved.clientX - x) / zoom) * step * (moved.shiftKey ? 0.2 : 1);
            at = Math.min(Math.max(max, value), Math.max(Math.min(min, value), at));
            x = moved.clientX;
            change(at);
        };
        const stop = () => {
            element.removeEventListener("pointermove", move);
            element.removeEventListener("lostpointercapture", stop);
            end();
        };
        element.addEventListener("pointermove", move);
        element.addEventListener("lostpointercapture", stop);
    });
    element.addEventListener("dblclick", (/** @type {MouseEvent} */ event) => {
        event.stopPropagation();
        if (!options.disabled) type();
    });
    draw();
    return element;
}
