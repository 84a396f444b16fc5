// A dialog over the page: the browser's <dialog>, which traps the focus and closes on Escape.

import { button, h } from "./dom.js";
import { t } from "./texts.js";

/**
 * Show `content` in a dialog; a new one of the same `kind` replaces the old.
 * @param {{kind: string, title: string, content: HTMLElement, onClose?: () => void}} options
 * @returns {{element: HTMLDialogElement, close: () => void}}
 */
export function openDialog({ kind, title, content, onClose }) {
    document.querySelectorAll(`dialog.lokr-dialog[data-kind="${kind}"]`).forEach((old) => {
        /** @type {HTMLDialogElement} */ (old).close();
    });
    const heading = h("h2", { id: `lokr-${kind}-title` }, title);
    const close = () => element.close();
    const element = h(
        "dialog.lokr-dialog",
        { "data-kind": kind, "aria-labelledby": heading.id },
        h("header", {}, heading, button(t("Close"), "✕", close)),
        h("div.lokr-dialog-body", {}, content),
    );
    // Keep keys from ComfyUI's shortcuts on the graph behind; only undo, a capturing listener, still works.
    for (const type of ["keydown", "keyup", "keypress", "paste", "copy", "wheel", "contextmenu"]) {
        element.addEventListener(type, (/** @type {Event} */ event) => event.stopPropagation());
    }
    // The browser closes it on Escape too, except in a search field, which it clears first.
    element.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
        if (event.key !== "Escape") return;
        event.preventDefault();
        close();
    });
    element.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
        if (event.target === element) close(); // the backdrop: everything else is in the header or the body
    });
    const opener = /** @type {HTMLElement | null} */ (document.activeElement);
    element.addEventListener("close", () => {
        element.remove();
        onClose?.();
        opener?.focus?.({ preventScroll: true });
    });
    document.body.append(element);
    element.showModal();
    return { element, close };
}
