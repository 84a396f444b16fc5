// Tab goes from a selected node to the first control of its face.

import { app } from "./host.js";

const CONTROLS = "button:not(:disabled), input, select, [tabindex='0']";

/** @param {import("./host.js").Node} node @returns {HTMLElement | undefined} */
function firstControl(node) {
    const elements = (node.widgets ?? []).map((widget) => /** @type {any} */ (widget).element);
    const faces = elements.filter((element) => element?.isConnected && element.classList.contains("lokr-face-host"));
    return faces
        .flatMap((face) => [...face.querySelectorAll(CONTROLS)])
        .find((control) => control.getClientRects().length > 0);
}

/** Follow Tab on the canvas and on nodes; in fields, dialogs and menus it stays the browser's. */
export function followTab() {
    document.addEventListener(
        "keydown",
        (event) => {
            if (event.key !== "Tab" || event.shiftKey || event.ctrlKey || event.altKey || event.metaKey) return;
            const active = document.activeElement;
            const onGraph = !active || active === document.body || active.matches("canvas, [data-node-id]");
            const selected = Object.values(app.canvas.selected_nodes ?? {});
            const control =
                onGraph && selected.length === 1 ? firstControl(/** @type {any} */ (selected[0])) : undefined;
            if (!control) return;
            event.preventDefault();
            event.stopImmediatePropagation();
            control.focus({ preventScroll: true });
        },
        true,
    );
}
