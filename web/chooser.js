// The file chooser: all adapters with search and previews, for mouse and keyboard.

import { listAdapters, previewUrl } from "./api.js";
import { openDialog } from "./dialog.js";
import { fileSize, h } from "./dom.js";

/** @typedef {import("./api.js").AdapterFile} AdapterFile */

/**
 * Open the chooser.
 * @param {object} options
 * @param {string} options.current
 * @param {string[]} options.offered the names that the node accepts
 * @param {(name: string) => void} options.onChoose
 */
export async function chooseFile({ current, offered, onChoose }) {
    const search = h("input.lokr-search", {
        type: "search",
        placeholder: "search by name or base model",
        "aria-label": "Search adapters",
        "aria-controls": "lokr-files",
        autofocus: true,
    });
    const list = h("div.lokr-files", { id: "lokr-files", role: "listbox", "aria-label": "Adapter files" });
    const count = h("p.lokr-count", { role: "status" });
    const dialog = openDialog({
        kind: "files",
        title: "Choose an adapter",
        content: h("div", {}, search, count, list),
    });

    /** @type {AdapterFile[]} */
    let files = offered.map((name) => ({ name }));
    /** @type {HTMLElement[]} */
    let shown = [];
    let active = -1;

    function filter() {
        const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
        const found = files.filter((file) => {
            const text = `${file.name} ${file.base_model ?? ""} ${file.kind ?? ""}`.toLowerCase();
            return words.every((/** @type {string} */ word) => text.includes(word));
        });
        shown = found.map((file, number) => card(file, number));
        list.replaceChildren(...shown);
        count.textContent = `${found.length} of ${files.length} files`;
        activate(
            Math.max(
                0,
                found.findIndex((file) => file.name === current),
            ),
        );
    }

    /** @param {AdapterFile} file @param {number} number */
    function card(file, number) {
        const about = [file.kind, file.base_model, file.size && fileSize(file.size)].filter(Boolean).join(" · ");
        const picture = file.has_preview
            ? h("img", { src: previewUrl(file.name), alt: "", loading: "lazy" })
            : h("span.lokr-no-preview", { "aria-hidden": "true" }, "LoKr");
        const element = h(
            "div.lokr-file",
            { id: `lokr-file-${number}`, role: "option", title: file.name, onclick: () => choose(number) },
            picture,
            h("strong", {}, file.name),
            h("small", {}, about),
        );
        element.dataset.name = file.name;
        element.classList.toggle("lokr-current", file.name === current);
        return element;
    }

    /** @param {number} number */
    function activate(number) {
        shown[active]?.setAttribute("aria-selected", "false");
        active = Math.min(shown.length - 1, Math.max(0, number));
        const option = shown[active];
        option?.setAttribute("aria-selected", "true");
        option?.scrollIntoView({ block: "nearest" });
        if (option) search.setAttribute("aria-activedescendant", option.id);
        else search.removeAttribute("aria-activedescendant");
    }

    /** @param {number} number */
    function choose(number) {
        const name = shown[number]?.dataset.name;
        if (name === undefined) return;
        dialog.close();
        onChoose(name);
    }

    /** The number of cards per row. */
    function columns() {
        const first = shown[0]?.offsetTop;
        const next = shown.findIndex((option) => option.offsetTop !== first);
        return next === -1 ? Math.max(1, shown.length) : next;
    }

    search.addEventListener("input", filter);
    search.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
        /** @type {Record<string, () => void>} */
        const keys = {
            ArrowDown: () => activate(active + columns()),
            ArrowUp: () => activate(active - columns()),
            PageDown: () => activate(active + 4 * columns()),
            PageUp: () => activate(active - 4 * columns()),
            Enter: () => choose(active),
        };
        if (!search.value) {
            keys.ArrowRight = () => activate(active + 1);
            keys.ArrowLeft = () => activate(active - 1);
        }
        if (!keys[event.key]) return;
        event.preventDefault();
        keys[event.key]();
    });
    filter();
    search.focus();
    try {
        const known = new Map((await listAdapters({ fresh: true })).map((file) => [file.name, file]));
        files = offered.map((name) => known.get(name) ?? { name });
        filter();
    } catch {
        // A server without the routes: only names.
    }
}

/** The names that a combo widget offers. @param {any} widget @returns {string[]} */
export function offeredBy(widget) {
    const values = widget?.options?.values ?? [];
    return typeof values === "function" ? values() : Array.isArray(values) ? values : Object.keys(values);
}
