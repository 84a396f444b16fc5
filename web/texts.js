// The page's words in the user's language: texts/LANGUAGE.json, made by locales/make.py. English is in the code itself.

import { app } from "./host.js";

/** @type {{page: Record<string, string>, told: Record<string, string>}} English -> the user's language */
let texts = { page: {}, told: {} };
/** @type {{pattern: RegExp, names: string[], text: string}[]} what Python says, with {numbers and names} in it */
let templates = [];

/** @param {string} key */
function templateOf(key) {
    const names = [...key.matchAll(/\{(\w+)\}/g)].map((found) => found[1]);
    const pattern = key
        .split(/\{\w+\}/)
        .map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"))
        .join("(.+?)");
    return { pattern: new RegExp(`^${pattern}$`, "s"), names, text: texts.told[key] };
}

/** The fields of an error first, which have texts in them, then the most special. @param {string} key */
function rank(key) {
    return key.startsWith("  ") ? 1000 : key.replace(/\{\w+\}/g, "").length;
}

/** Read the texts of ComfyUI's language; before any is shown. */
export async function loadTexts() {
    const language = String(/** @type {any} */ (app.extensionManager)?.setting?.get?.("Comfy.Locale") ?? "en");
    if (language === "en" || !/^[\w-]+$/.test(language)) return;
    try {
        const answer = await fetch(new URL(`./texts/${language}.json`, import.meta.url));
        if (!answer.ok) return;
        texts = await answer.json();
        const keys = Object.keys(texts.told).filter((key) => key.includes("{"));
        templates = keys.sort((a, b) => rank(b) - rank(a)).map(templateOf);
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
    return filled(texts.page[text] ?? text, values);
}

/**
 * A text that Python wrote, such as a report's reason, and the texts in it; what no template knows stays as it is.
 * @param {string} said @returns {string}
 */
export function told(said) {
    if (texts.told[said]) return texts.told[said];
    for (const { pattern, names, text } of templates) {
        const found = pattern.exec(said);
        if (found) return filled(text, Object.fromEntries(names.map((name, at) => [name, told(found[at + 1])])));
    }
    return said;
}

/** An error line by line: its fields are "name: text". @param {string} error */
export function toldLines(error) {
    return error
        .split("\n")
        .map((line) => told(line))
        .join("\n");
}
