// "Use this picture as preview" of an adapter, in the menu of a node that shows pictures; and previews of rows.

import { keepPreview, listAdapters, previewUrl } from "./api.js";
import { openDialog } from "./dialog.js";
import { button, h } from "./dom.js";
import { app } from "./host.js";
import { t, toldLines } from "./texts.js";

/** @typedef {import("./host.js").Node} Node */
/** @typedef {{filename: string, subfolder?: string, type?: string}} Picture */

/** The picture that a node shows. @param {Node} node @returns {Picture | null} */
export function pictureOf(node) {
    const { imgs, imageIndex, overIndex } = /** @type {any} */ (node);
    const at = imageIndex ?? overIndex ?? 0;
    const source = imgs?.[at]?.src ?? imgs?.[0]?.src;
    if (source) {
        const query = new URL(source, location.href).searchParams;
        const filename = query.get("filename");
        if (filename) return { filename, subfolder: query.get("subfolder") ?? "", type: query.get("type") ?? "output" };
    }
    const outputs = /** @type {any} */ (app).nodeOutputs?.[String(node.id)]?.images;
    return outputs?.[0]?.filename ? outputs[0] : null;
}

/** Copy a picture to the place beside an adapter; asks before another one is replaced. @param {string} name @param {Picture} picture */
export async function usePicture(name, picture) {
    try {
        if (!(await keepPreview(name, picture, false))) return askToReplace(name, picture);
        await done(name);
    } catch (error) {
        say(t("The preview was not written"), toldLines(error instanceof Error ? error.message : String(error)));
    }
}

/** @param {string} name @param {Picture} picture */
function askToReplace(name, picture) {
    const replace = async () => {
        dialog.close();
        await keepPreview(name, picture, true);
        await done(name);
    };
    const picked = h("img.lokr-preview", { src: previewUrl(name), alt: t("Preview of {file}", { file: name }) });
    const yes = button(t("Replace the picture"), t("Replace"), replace, { "data-key": "replace" });
    const no = button(t("Keep the picture"), t("Keep"), () => dialog.close(), { "data-key": "keep", autofocus: true });
    const content = h(
        "div",
        {},
        h("p", {}, t("{file} has this picture already.", { file: name })),
        picked,
        h("p.lokr-tools", {}, yes, no),
    );
    const dialog = openDialog({ kind: "replace", title: t("Replace the preview?"), content });
}

/** @param {string} name */
async function done(name) {
    await listAdapters({ fresh: true });
    const toast = /** @type {any} */ (app.extensionManager)?.toast;
    toast?.add?.({ severity: "success", summary: t("{file} has a new preview", { file: name }), life: 4000 });
}

/** @param {string} title @param {string} text */
function say(title, text) {
    openDialog({ kind: "said", title, content: h("p", {}, text) });
}

const peeked = h("img.lokr-peek", { alt: "", hidden: true });
peeked.onerror = () => (peeked.hidden = true);

/** Show a file's picture beside an element while the mouse is on it. @param {HTMLElement} element @param {() => string} nameOf */
export function peekAt(element, nameOf) {
    element.addEventListener("pointerenter", async () => {
        const files = await listAdapters().catch(() => []);
        const name = nameOf();
        if (!files.find((file) => file.name === name)?.has_preview || !element.matches(":hover")) return;
        const { right, top, left } = element.getBoundingClientRect();
        const place = right + 200 < innerWidth ? right + 8 : Math.max(8, left - 200);
        Object.assign(peeked.style, { left: `${place}px`, top: `${Math.max(8, Math.min(top, innerHeight - 200))}px` });
        peeked.src = previewUrl(name);
        peeked.hidden = false;
        document.body.append(peeked);
        // An element that is removed or redrawn under the mouse tells of no leaving.
        const watch = setInterval(() => {
            if (element.isConnected && element.matches(":hover") && peeked.isConnected) return;
            clearInterval(watch);
            peeked.remove();
        }, 150);
    });
    for (const end of ["pointerleave", "pointerdown"]) element.addEventListener(end, () => peeked.remove());
}
