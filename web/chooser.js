// The file chooser: all adapters with search, filters and previews, for mouse and keyboard.

import { previewUrl, readAdapters } from "./api.js";
import { openDialog } from "./dialog.js";
import { fileSize, h } from "./dom.js";
import { fits, folderOf, found, valuesOf } from "./files_model.js";
import { t, told } from "./texts.js";

/** @typedef {import("./api.js").AdapterFile} AdapterFile */

/** Cards that are made at once; more are made as the list is scrolled. */
const PAGE = 60;
const KEPT = "lokr.chooser";

/**
 * Open the chooser.
 * @param {object} options
 * @param {string} options.current
 * @param {string[]} options.offered the names that the node accepts
 * @param {Promise<string[]>} [options.fitting] the base models of the connected model
 * @param {(name: string) => void} options.onChoose
 */
export function chooseFile(options) {
    new Chooser(options).start();
}

class Chooser {
    /** @param {Parameters<typeof chooseFile>[0]} options */
    constructor({ current, offered, fitting, onChoose }) {
        Object.assign(this, { current, onChoose });
        this.current = current;
        this.onChoose = onChoose;
        this.asked = fitting ?? Promise.resolve([]);
        /** @type {AdapterFile[]} */
        this.files = offered.map((name) => ({ name }));
        /** @type {AdapterFile[]} those that are found */
        this.listed = [];
        /** @type {string[]} */
        this.fitting = [];
        this.active = 0;
        this.reading = offered.length;
        const kept = JSON.parse(localStorage.getItem(KEPT) ?? "{}");
        const change = () => this.filter();
        this.search = h("input.lokr-search", {
            type: "search",
            placeholder: t("search by name, title, trigger word or base model"),
            "aria-label": t("Search adapters"),
            "aria-controls": "lokr-files",
            role: "combobox",
            "aria-expanded": "true",
            autofocus: true,
            oninput: change,
            onkeydown: (/** @type {KeyboardEvent} */ event) => this.key(event),
        });
        this.folder = select(t("folder"), change);
        this.base = select(t("base model"), change);
        this.sort = select(t("sort by"), change, { name: t("name"), date: t("date"), base: t("base model") });
        this.sort.value = kept.sort ?? "name";
        this.lokrOnly = h("input", { type: "checkbox", checked: kept.lokrOnly !== false, onchange: change });
        this.count = h("span.lokr-count", { role: "status" });
        this.list = h("div.lokr-files", { id: "lokr-files", role: "listbox", "aria-label": t("Adapter files") });
        this.end = h("div.lokr-end");
        const filters = h(
            "div.lokr-filters",
            {},
            ...[this.folder, this.base, this.sort],
            h("label", {}, this.lokrOnly, t("LoKr only")),
            this.count,
        );
        this.dialog = openDialog({
            kind: "files",
            title: t("Choose an adapter"),
            content: h("div", {}, h("div.lokr-above", {}, this.search, filters), this.list, this.end),
            onClose: () => this.watch.disconnect(),
        });
        this.watch = new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && this.more());
        this.watch.observe(this.end);
    }

    async start() {
        this.filter(this.current);
        this.search.focus();
        this.asked.then((fitting) => {
            this.fitting = fitting;
            if (fitting.length) this.filter(this.chosen);
        });
        try {
            for await (const { files, reading } of readAdapters()) {
                if (!this.dialog.element.isConnected) return;
                this.files = files; // some have come or gone since the page asked for the node's names
                this.reading = reading;
                this.filter(this.chosen);
            }
        } catch {
            this.reading = 0; // a server without the routes: only names
            this.filter(this.chosen);
        }
    }

    /** The name of the active card. */
    get chosen() {
        return this.listed[this.active]?.name ?? this.current;
    }

    /** Show what is found. @param {string} [active] the name of the card to make active, else the first */
    filter(active) {
        options(
            this.folder,
            t("all folders"),
            valuesOf(this.files, (file) => folderOf(file.name)),
        );
        options(
            this.base,
            t("all base models"),
            valuesOf(this.files, (file) => file.base_model ?? ""),
        );
        const [sort, lokrOnly] = [this.sort.value, this.lokrOnly.checked];
        localStorage.setItem(KEPT, JSON.stringify({ sort, lokrOnly }));
        this.listed = found(this.files, {
            search: this.search.value,
            folder: this.folder.value,
            base: this.base.value,
            lokrOnly,
            sort,
            fitting: this.fitting,
        });
        this.list.replaceChildren();
        this.more();
        const numbers = { found: this.listed.length, all: this.files.length, reading: this.reading };
        this.count.textContent = this.reading
            ? t("{found} of {all} files · {reading} still to be read", numbers)
            : t("{found} of {all} files", numbers);
        const at = active === undefined ? 0 : this.listed.findIndex((file) => file.name === active);
        this.activate(Math.max(0, at));
    }

    /** Make the next cards. @param {number} [until] */
    more(until = this.list.childElementCount + PAGE) {
        const made = this.list.childElementCount;
        const next = this.listed.slice(made, Math.max(until, made));
        this.list.append(...next.map((file, number) => this.card(file, made + number)));
    }

    /** @param {AdapterFile} file @param {number} number */
    card(file, number) {
        const about = [file.kind, file.base_model, file.size && fileSize(file.size)].filter(Boolean);
        const picture = file.has_preview
            ? h("img", { src: previewUrl(file.name), alt: "", loading: "lazy" })
            : h("span.lokr-no-preview", { "aria-hidden": "true" }, file.kind ?? "");
        const element = h(
            "div.lokr-file",
            { id: `lokr-file-${number}`, role: "option", title: file.name, "aria-selected": "false" },
            picture,
            h("strong", {}, file.name),
            file.title && file.title !== file.name && h("span", {}, file.title),
            h("small", {}, about.map((text) => told(String(text))).join(" · ")),
            file.problem && h("small.lokr-problem", {}, told(file.problem)),
            fits(file, this.fitting) && h("small.lokr-fits", {}, t("fits the connected model")),
        );
        element.addEventListener("click", () => this.choose(number));
        element.dataset.name = file.name;
        element.classList.toggle("lokr-current", file.name === this.current);
        element.classList.toggle("lokr-other", file.is_lokr === false);
        return element;
    }

    /** @param {number} number */
    activate(number) {
        this.list.children[this.active]?.setAttribute("aria-selected", "false");
        this.active = Math.min(this.listed.length - 1, Math.max(0, number));
        if (this.active >= this.list.childElementCount) this.more(this.active + PAGE);
        const option = this.list.children[this.active];
        option?.setAttribute("aria-selected", "true");
        if (this.active) option?.scrollIntoView({ block: "nearest" });
        else this.search.scrollIntoView({ block: "nearest" });
        if (option) this.search.setAttribute("aria-activedescendant", option.id);
        else this.search.removeAttribute("aria-activedescendant");
    }

    /** @param {number} number */
    choose(number) {
        const file = this.listed[number];
        if (!file) return;
        this.dialog.close();
        this.onChoose(file.name);
    }

    /** The number of cards per row. */
    columns() {
        const shown = /** @type {HTMLElement[]} */ ([...this.list.children]);
        const next = shown.findIndex((option) => option.offsetTop !== shown[0].offsetTop);
        return next === -1 ? Math.max(1, shown.length) : next;
    }

    /** @param {KeyboardEvent} event */
    key(event) {
        const { active } = this;
        /** @type {Record<string, () => void>} */
        const keys = {
            ArrowDown: () => this.activate(active + this.columns()),
            ArrowUp: () => this.activate(active - this.columns()),
            PageDown: () => this.activate(active + 4 * this.columns()),
            PageUp: () => this.activate(active - 4 * this.columns()),
            Enter: () => this.choose(active),
        };
        if (!this.search.value) {
            keys.ArrowRight = () => this.activate(active + 1);
            keys.ArrowLeft = () => this.activate(active - 1);
        }
        if (!keys[event.key]) return;
        event.preventDefault();
        keys[event.key]();
    }
}

/** @param {string} label @param {() => void} onchange @param {Record<string, string>} [values] */
function select(label, onchange, values = {}) {
    const choices = Object.entries(values).map(([value, text]) => h("option", { value }, text));
    return h("select", { "aria-label": label, title: label, onchange }, ...choices);
}

/** Offer these values, keeping the chosen one. @param {HTMLSelectElement} element @param {string} all @param {string[]} values */
function options(element, all, values) {
    const { value } = element;
    if (element.options.length === values.length + 1 && element.options.length > 0) return;
    element.replaceChildren(h("option", { value: "" }, all), ...values.map((one) => h("option", { value: one }, one)));
    element.value = values.includes(value) ? value : "";
    element.hidden = !values.length;
}

/** The names that a combo widget offers. @param {any} widget @returns {string[]} */
export function offeredBy(widget) {
    const values = widget?.options?.values ?? [];
    return typeof values === "function" ? values() : Array.isArray(values) ? values : Object.keys(values);
}
