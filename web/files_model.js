// Which adapter files a search finds, and in which order.

/** @typedef {import("./api.js").AdapterFile} AdapterFile */

/**
 * @typedef {object} Wish
 * @property {string} search words, each of which has to be in a file's name, title, trigger words or base model
 * @property {string} folder "" for all
 * @property {string} base a base model, "" for all
 * @property {boolean} lokrOnly without files that are known not to be LoKr
 * @property {"name" | "date" | "base"} sort
 * @property {string[]} fitting the base models of the connected model: its files come first
 */

/** A text as people may spell it: without case, spaces and punctuation. @param {string} text */
function plain(text) {
    return text.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "");
}

/** @type {WeakMap<AdapterFile, {text: string, plain: string}>} */
const searched = new WeakMap();

/** @param {AdapterFile} file */
function textOf(file) {
    let found = searched.get(file);
    if (!found) {
        const fields = [file.name, file.title, file.base_model, file.also, file.kind, ...(file.trigger_words ?? [])];
        const words = fields.filter((field) => typeof field === "string" && field !== "").map(String);
        found = { text: words.join("\n").toLowerCase(), plain: words.map(plain).join(" ") };
        searched.set(file, found);
    }
    return found;
}

/** The folder in a file's name, "" if it is in none. @param {string} name */
export function folderOf(name) {
    return name.replaceAll("\\", "/").replace(/\/?[^/]*$/, "");
}

/** A file's name without folder and ending. @param {string} name */
export function stemOf(name) {
    return name.replace(/^.*[\\/]/, "").replace(/\.safetensors$/i, "");
}

/** @param {AdapterFile} file @param {string[]} fitting */
export function fits(file, fitting) {
    return Boolean(file.base_model && fitting.includes(file.base_model));
}

/** @param {AdapterFile[]} files @param {Wish} wish */
export function found(files, { search, folder, base, lokrOnly, sort, fitting }) {
    const words = search.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = words.map((word) => ({ word, plain: plain(word) }));
    const kept = files.filter((file) => {
        if (lokrOnly && file.is_lokr === false) return false;
        if (folder && folderOf(file.name) !== folder) return false;
        if (base && file.base_model !== base) return false;
        if (!wanted.length) return true;
        const known = textOf(file);
        return wanted.every((one) => known.text.includes(one.word) || (one.plain && known.plain.includes(one.plain)));
    });
    const byName = (/** @type {AdapterFile} */ a, /** @type {AdapterFile} */ b) => collator.compare(a.name, b.name);
    /** @type {Record<Wish["sort"], (a: AdapterFile, b: AdapterFile) => number>} */
    const orders = {
        name: byName,
        date: (a, b) => (b.mtime ?? 0) - (a.mtime ?? 0) || byName(a, b),
        base: (a, b) => collator.compare(a.base_model || "\uffff", b.base_model || "\uffff") || byName(a, b),
    };
    kept.sort((a, b) => Number(fits(b, fitting)) - Number(fits(a, fitting)) || orders[sort](a, b));
    return kept;
}

const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

/** The different values of `of` among the files, sorted. @param {AdapterFile[]} files @param {(file: AdapterFile) => string} of */
export function valuesOf(files, of) {
    return [...new Set(files.map(of))].filter(Boolean).sort(collator.compare);
}
