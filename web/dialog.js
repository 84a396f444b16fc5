// A window over the page: the browser's own <dialog>, which keeps the focus inside and closes with Escape.

import { button, h } from "./dom.js";

/**
 * Show `content` in a window until it is closed; one at a time of each `kind`.
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
        h("header", {}, heading, button("Close", "✕", close)),
        h("div.lokr-dialog-body", {}, content),
    );
    // ComfyUI's shortcuts work on the graph behind; undo alone is heard (it listens before anyone else).
    for (const type of ["keydown", "keyup", "keypress", "paste", "copy", "wheel", "contextmenu"]) {
        element.addEventListener(type, (/** @type {Event} */ event) => event.stopPropagation());
    }
    // The browser closes it with Escape too, but for a search field, which it empties first.
    element.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
        if (event.key !== "Escape") return;
        event.preventDefault();
        close();
    });
    element.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
        if (event.target === element) close(); // the backdrop: everything else is inside the header and the body
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
