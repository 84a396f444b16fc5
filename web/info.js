// The info dialog: a file's kind, what is written beside it, its heat map, its metadata.

import { adapterHash, adapterInfo, previewUrl } from "./api.js";
import { openDialog } from "./dialog.js";
import { button, copyText, fileSize, h } from "./dom.js";
import { heatTable } from "./heatmap.js";
import { t, told, toldLines } from "./texts.js";

/** @typedef {import("./api.js").AdapterInfo} AdapterInfo */

/** @param {string} name */
export async function showInfo(name) {
    const content = h("div.lokr-info", { "aria-busy": "true" }, h("p", {}, t("Reading the file…")));
    openDialog({ kind: "info", title: name, content });
    try {
        const info = await adapterInfo(name);
        content.replaceChildren(...sections(info));
    } catch (error) {
        content.replaceChildren(
            h("pre.lokr-error", {}, toldLines(error instanceof Error ? error.message : String(error))),
        );
    }
    content.removeAttribute("aria-busy");
}

/** @param {AdapterInfo} info @returns {HTMLElement[]} */
function sections(info) {
    return [
        facts(info),
        triggerWords([...new Set([...(info.sidecar?.trigger_words ?? []), ...(info.trigger_words ?? [])])]),
        beside(info),
        notes(info.notes ?? []),
        section(t("Where it acts"), info.heat?.rows.length ? h("div.lokr-scroll", {}, heatTable(info.heat)) : null),
        section(t("Factors"), factors(info.factors ?? [])),
        section(t("Metadata"), metadata(info.metadata ?? {})),
    ].filter(Boolean);
}

/** @param {string} title @param {HTMLElement | null} content */
function section(title, content) {
    return content && h("section", {}, h("h3", {}, title), content);
}

/** @param {AdapterInfo} info */
function facts(info) {
    const list = h("dl.lokr-facts");
    const guess = info.base_model && info.guessed;
    const base = guess ? t("{base} (guessed from its names)", { base: info.base_model ?? "" }) : info.base_model;
    const date =
        info.mtime &&
        new Date(1000 * info.mtime).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
    /** @type {[string, any][]} */
    const rows = [
        [t("title"), info.sidecar?.title || info.title],
        [t("kind"), info.kind && told(info.kind)],
        [t("base model"), base],
        [t("made by"), info.producer && told(info.producer)],
        [t("modules"), info.modules],
        [t("file"), info.name],
        [t("size"), info.size && fileSize(info.size)],
        [t("date"), date],
        [t("hash"), hash(info.name)],
    ];
    for (const [name, value] of rows) {
        if (value == null || value === "") continue;
        list.append(h("dt", {}, name), h("dd", {}, value instanceof Node ? value : String(value)));
    }
    const picture = h("img.lokr-preview", {
        alt: t("Preview of {file}", { file: info.name }),
        src: previewUrl(info.name),
    });
    picture.onerror = () => picture.remove();
    return h("div.lokr-top", {}, list, picture);
}

/** A button that reads the whole file for its hash. @param {string} name */
function hash(name) {
    const place = h("span", { role: "status" });
    place.tabIndex = -1; // it takes the focus of the button that it replaces
    const ask = button(t("Compute the file's hash"), t("compute"), async () => {
        place.replaceChildren(t("Reading the file…"));
        place.focus();
        try {
            const { sha256, autov2 } = await adapterHash(name);
            place.replaceChildren(`SHA256 ${sha256} · AutoV2 ${autov2}`);
        } catch (error) {
            place.replaceChildren(toldLines(error instanceof Error ? error.message : String(error)));
        }
    });
    ask.dataset.key = "hash";
    place.append(ask);
    return place;
}

/** What other programs have written beside the file: text, never HTML. @param {AdapterInfo} info */
function beside({ sidecar }) {
    if (!sidecar?.read.length) return null;
    const list = h("dl.lokr-facts");
    /** @type {[string, string | number | null][]} */
    const rows = [
        [t("preferred strength"), sidecar.strength],
        [t("base model"), sidecar.base_model],
        [t("notes"), sidecar.notes],
    ];
    for (const [name, value] of rows) {
        if (value) list.append(h("dt", {}, name), h("dd.lokr-lines", {}, String(value)));
    }
    return section(t("Beside the file: {files}", { files: sidecar.read.join(", ") }), list);
}

/** @param {string[]} words */
function triggerWords(words) {
    if (!words.length) return null;
    const status = h("span.lokr-said", { role: "status" });
    const copy = async (/** @type {string} */ text) => {
        await copyText(text);
        status.textContent = t("copied: {text}", { text });
    };
    const buttons = words.map((word) => button(t('Copy "{word}"', { word }), word, () => copy(word)));
    const all = words.length > 1 && button(t("Copy all trigger words"), t("copy all"), () => copy(words.join(", ")));
    return section(t("Trigger words"), h("div.lokr-words", {}, ...buttons, all, status));
}

/** @param {string[]} texts */
function notes(texts) {
    return texts.length ? section(t("Notes"), h("ul", {}, ...texts.map((text) => h("li", {}, told(text))))) : null;
}

/** Rows of a long table that are shown at first; a button shows the rest. */
const MAX_ROWS = 200;

/** @param {NonNullable<AdapterInfo["factors"]>} all */
function factors(all) {
    if (!all.length) return null;
    const titles = {
        ...{ module: t("module"), shape: t("shape"), w1: "w1", w2: "w2" },
        ...{ rank: t("rank"), scaling: t("scaling"), form: t("form") },
    };
    const columns = /** @type {(keyof typeof titles)[]} */ (Object.keys(titles));
    const line = (/** @type {typeof all[number]} */ factor) =>
        h("tr", {}, ...columns.map((column) => h("td", {}, shown(factor[column]))));
    const body = h("tbody", {}, ...all.slice(0, MAX_ROWS).map(line));
    const head = h("tr", {}, ...columns.map((column) => h("th", { scope: "col" }, titles[column])));
    const table = h("div.lokr-scroll", {}, h("table.lokr-table", {}, h("thead", {}, head), body));
    const more = button(t("Show all modules"), t("show all {count} modules", { count: all.length }), () => {
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
    if (!names.length) return h("p", {}, t("The file has no metadata."));
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
