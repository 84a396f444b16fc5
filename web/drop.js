// A .safetensors dropped on the canvas: of an adapter that a models folder has, a loader; of another, where to put it.

import { findAdapter } from "./api.js";
import { openDialog } from "./dialog.js";
import { h } from "./dom.js";
import { app, asOneChange, setValue, widgetOf } from "./host.js";
import { t } from "./texts.js";

const MOST_HEADER = 32 << 20;

/** Follow drops on the canvas. */
export function followDrops() {
    document.addEventListener(
        "drop",
        (event) => {
            const [file, ...more] = event.dataTransfer?.files ?? [];
            if (!file || more.length || !/\.safetensors$/i.test(file.name)) return;
            event.preventDefault();
            event.stopImmediatePropagation();
            const [x, y] = app.canvas.convertEventToCanvasOffset(event);
            dropped(file, [x, y]);
        },
        true,
    );
}

/** @param {File} file @param {[number, number]} place */
async function dropped(file, place) {
    const start = await headerOf(file).catch(() => null);
    // What ComfyUI itself reads: a workflow in the metadata, and whatever is not an adapter.
    if (!start || start.workflow || !start.lokr) return app.handleFile(file);
    const name = await findAdapter(file, start.bytes).catch(() => null);
    if (name === null) return sayWhere(file.name);
    asOneChange(() => {
        const node = /** @type {any} */ (window).LiteGraph.createNode("LoKrLoader");
        if (!node) return;
        node.pos = place;
        app.canvas.graph?.add(node);
        const widget = widgetOf(node, "lokr_name");
        if (widget) setValue(node, widget, name);
        app.canvas.selectNode(node);
    });
}

/** The header of a safetensors file: 8 bytes of its length, then JSON. @param {File} file */
async function headerOf(file) {
    const length = Number(new DataView(await file.slice(0, 8).arrayBuffer()).getBigUint64(0, true));
    if (length > MOST_HEADER || length + 8 > file.size) return null;
    const bytes = file.slice(0, 8 + length);
    const header = JSON.parse(await file.slice(8, 8 + length).text());
    const metadata = header.__metadata__ ?? {};
    const names = Object.keys(header);
    const lokr = names.some((name) => /(^|[._])lokr_w[12]/.test(name));
    return { bytes, lokr, workflow: Boolean(metadata.workflow || metadata.prompt) };
}

/** @param {string} name */
function sayWhere(name) {
    const content = h(
        "div",
        {},
        h("p", {}, t("{name} is a LoKr file that is not in a folder of ComfyUI yet.", { name })),
        h("p", {}, t("Put it into models/loras or models/lokr and drop it again, or choose it on a LoKr Loader.")),
    );
    openDialog({ kind: "dropped", title: t("Where this file belongs"), content });
}
