// The info dialog: a file's kind, its heat map, its metadata.

import { adapterInfo, previewUrl } from "./api.js";
import { openDialog } from "./dialog.js";
import { button, copyText, h } from "./dom.js";
import { heatTable } from "./heatmap.js";

/** @typedef {import("./api.js").AdapterInfo} AdapterInfo */

/** @param {string} name */
export async function showInfo(name) {
    const content = h("div.lokr-info", { "aria-busy": "true" }, h("p", {}, "Reading the file…"));
    openDialog({ kind: "info", title: name, content });
    try {
        const info = await adapterInfo(name);
        content.replaceChildren(...sections(info));
    } catch (error) {
        content.replaceChildren(h("pre.lokr-error", {}, error instanceof Error ? error.message : String(error)));
    }
    content.removeAttribute("aria-busy");
}

/** @param {AdapterInfo} info @returns {HTMLElement[]} */
function sections(info) {
    return [
        facts(info),
        triggerWords(info.trigger_words ?? []),
        notes(info.notes ?? []),
        section("Where it acts", info.heat?.rows.length ? h("div.lokr-scroll", {}, heatTable(info.heat)) : null),
        section("Factors", factors(info.factors ?? [])),
        section("Metadata", metadata(info.metadata ?? {})),
    ].filter(Boolean);
}

/** @param {string} title @param {HTMLElement | null} content */
function section(title, content) {
    return content && h("section", {}, h("h3", {}, title), content);
}

/** @param {AdapterInfo} info */
function facts(info) {
    const list = h("dl.lokr-facts");
    const rows = {
        title: info.title,
        kind: info.kind,
        "base model": info.base_model_text ?? info.base_model,
        "made by": info.producer,
        modules: info.modules,
    };
    for (const [name, value] of Object.entries(rows)) {
        if (value != null && value !== "") list.append(h("dt", {}, name), h("dd", {}, String(value)));
    }
    const picture = h("img.lokr-preview", { alt: `Preview of ${info.name}`, src: previewUrl(info.name) });
    picture.onerror = () => picture.remove();
    return h("div.lokr-top", {}, list, picture);
}

/** @param {string[]} words */
function triggerWords(words) {
    if (!words.length) return null;
    const status = h("span.lokr-said", { role: "status" });
    const copy = async (/** @type {string} */ text) => {
        await copyText(text);
        status.textContent = `copied: ${text}`;
    };
    const buttons = words.map((word) => button(`Copy "${word}"`, word, () => copy(word)));
    const all = words.length > 1 && button("Copy all trigger words", "copy all", () => copy(words.join(", ")));
    return section("Trigger words", h("div.lokr-words", {}, ...buttons, all, status));
}

/** @param {string[]} texts */
function notes(texts) {
    return texts.length ? section("Notes", h("ul", {}, ...texts.map((text) => h("li", {}, text)))) : null;
}

/** Rows of a long table that are shown at first; a button shows the rest. */
const MAX_ROWS = 200;

/** @param {NonNullable<AdapterInfo["factors"]>} all */
function factors(all) {
    if (!all.length) return null;
    const columns = /** @type {const} */ (["module", "shape", "w1", "w2", "rank", "scaling", "form"]);
    const line = (/** @type {typeof all[number]} */ factor) =>
        h("tr", {}, ...columns.map((column) => h("td", {}, shown(factor[column]))));
    const body = h("tbody", {}, ...all.slice(0, MAX_ROWS).map(line));
    const head = h("tr", {}, ...columns.map((column) => h("th", { scope: "col" }, column)));
    const table = h("div.lokr-scroll", {}, h("table.lokr-table", {}, h("thead", {}, head), body));
    const more = button("Show all modules", `show all ${all.length} modules`, () => {
        body.append(...all.slice(MAX_ROWS).map(line));
        more.remove();
    });
    return h("div", {}, table, all.length > MAX_ROWS && more);
}

/** @param {any} value */
function shown(value) {
    if (value == null) return "";
    if (Array.isArray(value)) return value.join(" × ");
    return typeof value === "number" ? String(Number(value.toPrecision(6))) : String(value);
}

/** @param {Record<string, string>} entries */
function metadata(entries) {
    const names = Object.keys(entries).sort();
    if (!names.length) return h("p", {}, "The file has no metadata.");
    const list = h("dl.lokr-metadata");
    for (const name of names) list.append(h("dt", {}, name), h("dd", {}, pretty(entries[name])));
    return list;
}

/** A value as text; JSON is indented. @param {any} value */
function pretty(value) {
    if (typeof value !== "string") return h("pre", {}, JSON.stringify(value, null, 1));
    if (!/^[{[]/.test(value)) return value;
    try {
        return h("pre", {}, JSON.stringify(JSON.parse(value), null, 1));
    } catch {
        return value;
    }
}
