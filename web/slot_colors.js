// The colours of the pack's own connections, on the canvas and in Vue nodes.

import { h } from "./dom.js";
import { app } from "./host.js";

const COLORS = { LOKR_BLOCKS: "#d9a441", LOKR_SCHEDULE: "#3fb6a8", LOKR_GRID: "#b48ef0" };

/** Colour slots and links; a colour palette, which clears the colours of types that it does not know, keeps them. */
export function colorSlots() {
    const canvas = /** @type {any} */ (app.canvas);
    const tables = [canvas?.default_connection_color_byType, canvas?.constructor?.link_type_colors];
    const rules = Object.entries(COLORS).map(([type, color]) => `--color-datatype-${type}: ${color};`);
    document.head.append(h("style", {}, `:root { ${rules.join(" ")} }`));
    for (const [type, color] of Object.entries(COLORS)) {
        for (const table of tables) {
            if (!table) continue;
            Object.defineProperty(table, type, {
                get: () => color,
                set: () => {},
                enumerable: true,
                configurable: true,
            });
        }
    }
}
