// The page's words in the user's language: texts/LANGUAGE.json, made by locales/make.py. English is in the code itself.

import { app } from "./host.js";

/** @type {Record<string, string>} English -> the user's language */
let table = {};
/** @type {{pattern: RegExp, names: string[], text: string}[]} what Python says, with {numbers and names} in it */
let templates = [];

/** @param {string} key */
function templateOf(key) {
    const names = [...key.matchAll(/\{(\w+)\}/g)].map((found) => found[1]);
    const pattern = key
        .split(/\{\w+\}/)
        .map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"))
        .join("(.+?)");
    return { pattern: new RegExp(`^${pattern}$`, "s"), names, text: table[key] };
}

/** Read the texts of ComfyUI's language; before any is shown. */
export async function loadTexts() {
    const language = String(/** @type {any} */ (app.extensionManager)?.setting?.get?.("Comfy.Locale") ?? "en");
    if (language === "en" || !/^[\w-]+$/.test(language)) return;
    try {
        const answer = await fetch(new URL(`./texts/${language}.json`, import.meta.url));
        if (!answer.ok) return;
        table = await answer.json();
        templates = Object.keys(table)
            .filter((key) => key.includes("{"))
            .map(templateOf);
    } catch {
        // English then.
    }
}

/** @param {string} text @param {Record<string, string | number>} values */
function filled(text, values) {
    return text.replace(/\{(\w+)\}/g, (all, name) => (name in values ? String(values[name]) : all));
}

/**
 * A text of the page, with `{names}` filled in.
 * @param {string} text in English @param {Record<string, string | number>} [values]
 */
export function t(text, values = {}) {
    return filled(table[text] ?? text, values);
}

/** A text that Python wrote, such as a report's reason; as it is if its template is unknown. @param {string} said */
export function told(said) {
    if (table[said]) return table[said];
    for (const { pattern, names, text } of templates) {
        const found = pattern.exec(said);
        if (found) return filled(text, Object.fromEntries(names.map((name, at) => [name, found[at + 1]])));
    }
    return said;
}
