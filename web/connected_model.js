// The base models of the model file that a node's "model" input comes from.

import { baseModels } from "./api.js";

/** @typedef {import("./host.js").Node} Node */

/** Widget of a loader of ComfyUI -> the folder of models that it offers. */
const FOLDERS = { ckpt_name: "checkpoints", unet_name: "diffusion_models" };
const MOST_STEPS = 100;

/** The base models of the connected model; [] if they are unknown. @param {Node} node @returns {Promise<string[]>} */
export async function connectedModel(node) {
    /** @type {Node | null} */
    let at = node;
    for (let step = 0; at && step < MOST_STEPS; step++) {
        for (const [name, folder] of Object.entries(FOLDERS)) {
            const file = at.widgets?.find((widget) => widget.name === name)?.value;
            if (typeof file === "string") return baseModels(folder, file).catch(() => []);
        }
        const slot = /** @type {number} */ (at.inputs?.findIndex((input) => input.type === "MODEL") ?? -1);
        at = slot < 0 ? null : /** @type {Node | null} */ (at.getInputNode(slot));
    }
    return [];
}
