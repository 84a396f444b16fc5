// The names of adapters, completed in the prompt of a Prompt Loader behind "<lokr:".

import { listAdapters } from "./api.js";
import { h } from "./dom.js";
import { found, stemOf } from "./files_model.js";
import { t } from "./texts.js";

const MOST = 8;
const OPEN = /<lokr:([^<>:]*)$/i;

/** The files that a prompt's tags name. @param {string} prompt @param {import("./api.js").AdapterFile[]} files */
export function namedIn(prompt, files) {
    const names = [...prompt.matchAll(/<lokr:([^<>:]+)/gi)].map((tag) => tag[1].trim().toLowerCase());
    const spelled = (/** @type {string} */ name) =>
        name
            .replaceAll("\\", "/")
            .replace(/\.safetensors$/i, "")
            .toLowerCase();
    return names.flatMap((name) => {
        const wanted = spelled(name);
        const file =
            files.find((one) => spelled(one.name) === wanted) ??
            files.find((one) => stemOf(spelled(one.name)) === wanted);
        return file ? [file.name] : [];
    });
}

/** Complete names in the text fields that `isPrompt` names. @param {(field: HTMLTextAreaElement) => boolean} isPrompt */
export function completeNames(isPrompt) {
    const list = h("div.lokr-completion", { id: "lokr-completion", role: "listbox", "aria-label": t("Adapter files") });
    /** @type {HTMLTextAreaElement | null} */
    let field = null;
    let active = 0;

    const close = () => {
        list.remove();
        field?.removeAttribute("aria-activedescendant");
        field = null;
    };
    const mark = () => {
        [...list.children].forEach((one, at) => one.setAttribute("aria-selected", String(at === active)));
        field?.setAttribute("aria-activedescendant", `lokr-completion-${active}`);
        list.children[active]?.scrollIntoView({ block: "nearest" });
    };
    const take = (/** @type {number} */ at) => {
        const name = list.children[at]?.getAttribute("data-name");
        const target = field;
        close();
        if (!target || !name) return;
        const place = target.selectionStart;
        const begun = OPEN.exec(target.value.slice(0, place))?.[1] ?? "";
        const ended = target.value[place] === ">" || target.value[place] === ":";
        target.setRangeText(ended ? name : `${name}:1>`, place - begun.length, place, "end");
        target.dispatchEvent(new Event("input", { bubbles: true }));
    };

    const update = async (/** @type {HTMLTextAreaElement} */ target) => {
        const begun = OPEN.exec(target.value.slice(0, target.selectionStart))?.[1];
        if (begun === undefined) return close();
        const files = await listAdapters().catch(() => []);
        const wish = {
            search: begun,
            folder: "",
            base: "",
            lokrOnly: true,
            sort: /** @type {const} */ ("name"),
            fitting: [],
        };
        const names = found(files, wish).slice(0, MOST);
        if (!names.length || document.activeElement !== target) return close();
        field = target;
        active = 0;
        const stems = files.map((file) => stemOf(file.name).toLowerCase());
        const options = names.map((file, at) => {
            const stem = stemOf(file.name);
            const unique = stems.filter((other) => other === stem.toLowerCase()).length === 1;
            const name = unique ? stem : file.name.replace(/\.safetensors$/i, "");
            const option = h(
                "div.lokr-option",
                { id: `lokr-completion-${at}`, role: "option", "data-name": name },
                file.name,
            );
            option.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
                event.preventDefault(); // the field keeps the focus
                take(at);
            });
            return option;
        });
        list.replaceChildren(...options);
        const { left, bottom, width } = target.getBoundingClientRect();
        Object.assign(list.style, { left: `${left}px`, top: `${bottom}px`, minWidth: `${Math.min(width, 400)}px` });
        document.body.append(list);
        mark();
    };

    document.addEventListener("input", ({ target }) => {
        if (target instanceof HTMLTextAreaElement && isPrompt(target)) update(target);
    });
    document.addEventListener("focusout", close);
    document.addEventListener(
        "keydown",
        (event) => {
            if (!field || event.target !== field) return;
            /** @type {Record<string, () => void>} */
            const keys = {
                ArrowDown: () => (active = (active + 1) % list.childElementCount),
                ArrowUp: () => (active = (active + list.childElementCount - 1) % list.childElementCount),
                Enter: () => take(active),
                Tab: () => take(active),
                Escape: close,
            };
            if (!keys[event.key]) return;
            event.preventDefault();
            event.stopImmediatePropagation();
            keys[event.key]();
            if (field) mark();
        },
        true,
    );
}
