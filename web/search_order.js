// The Loader comes first where a person searches for "lokr": ComfyUI puts the shortest name first, which is LoKr Save.

import { app } from "./host.js";

const FIRST = "LoKrLoader";

/** Rank the Loader above the pack's other nodes; a front end that ranks in another way keeps its order. */
export function putLoaderFirst() {
    const stores = /** @type {any} */ (app.extensionManager)?._p?._s;
    const definitions = stores?.get("nodeDef")?.nodeDefsByName;
    const kind = definitions?.[FIRST] && Object.getPrototypeOf(definitions[FIRST]);
    const before = kind?.postProcessSearchScores;
    if (typeof before !== "function") return;
    // The scores are compared one after the other, the least first: how well the name fits, then how often it is used.
    kind.postProcessSearchScores = function (/** @type {number[]} */ scores) {
        const [fit, used, ...rest] = before.call(this, scores);
        return [fit, this.name === FIRST ? used - 1 : used, ...rest];
    };
}
