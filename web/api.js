// The pack's routes on ComfyUI's server (nodes/routes.py).

import { api } from "./host.js";

/**
 * @typedef {object} AdapterFile
 * @property {string} name as in the nodes' list of files
 * @property {string | null} [base_model] in one spelling
 * @property {string} [also] how people write that base model
 * @property {string | null} [kind] undefined until the server has read the file, as all below
 * @property {boolean} [is_lokr]
 * @property {string} [title]
 * @property {string[]} [trigger_words]
 * @property {number | null} [strength] the preferred one
 * @property {string} [problem] why the file cannot be read
 * @property {number} [size] bytes
 * @property {number} [mtime] seconds since 1970
 * @property {boolean} [has_preview]
 * @property {string} [fingerprint] of the file's path and version
 *
 * @typedef {object} AdapterInfo
 * @property {string} name
 * @property {string | null} [kind]
 * @property {string | null} [base_model]
 * @property {boolean} [guessed] whether names and shapes tell the base model
 * @property {number} [size] bytes
 * @property {number} [mtime] seconds since 1970
 * @property {Sidecar} [sidecar]
 * @property {string | null} [producer]
 * @property {string} [title]
 * @property {Record<string, string>} [metadata]
 * @property {string[]} [trigger_words]
 * @property {number} [modules]
 * @property {{block: string, group: string, energy: number, modules: number}[]} [blocks]
 * @property {{rows: string[], columns: string[], values: (number | null)[][], relative?: boolean}} [heat]
 * @property {{module: string, shape: any, w1: any, w2: any, rank: any, scaling: any, form: string}[]} [factors]
 * @property {string[]} [notes]
 * @property {BlockLayout} [layout]
 *
 * @typedef {object} Sidecar what other programs have written beside the file
 * @property {string} title
 * @property {string[]} trigger_words
 * @property {string} notes
 * @property {number | null} strength the preferred one
 * @property {string} base_model
 * @property {string[]} read the sidecars' names
 *
 * @typedef {object} BlockLayout the blocks of an architecture, in the order in which the model runs them
 * @property {string | null} architecture
 * @property {{name: string, list: string, label: string, blocks: string[]}[]} groups
 * @property {{name: string, text: string}[]} presets those whose blocks exist
 */

/** @param {string} path @param {RequestInit} [options] @returns {Promise<any>} */
async function getJson(path, options) {
    const answer = await api.fetchApi(path, options);
    const body = await answer.json().catch(() => null);
    if (!answer.ok) {
        const error = new Error(errorText(body) ?? `${answer.status} ${answer.statusText}`);
        throw Object.assign(error, { status: answer.status });
    }
    return body;
}

/** An error of the routes as text, a line per field, as Python writes it. @param {any} body @returns {string | undefined} */
function errorText(body) {
    if (typeof body?.error !== "string") return undefined;
    const details = ["module", "expected", "found", "hint"].filter((key) => body[key]);
    return [body.error, ...details.map((key) => `  ${key === "hint" ? "what to do" : key}: ${body[key]}`)].join("\n");
}

/** @type {Promise<AdapterFile[]> | null} */
let listed = null;
/** @type {AdapterFile[]} */
let known = [];

/** @type {(() => void)[]} */
const listeners = [];

/** The adapter files of the newest list; [] before the first. */
export function knownAdapters() {
    return known;
}

/** Call `listener` whenever files have come or gone. @param {() => void} listener */
export function onNewNames(listener) {
    listeners.push(listener);
}

/** @param {AdapterFile[]} files the newest list */
function keep(files) {
    const before = new Set(known.map(({ name }) => name));
    const same = before.size === files.length && files.every(({ name }) => before.has(name));
    known = files;
    if (!same) for (const listener of listeners) listener();
    return files;
}

/**
 * The adapter files and their headers' facts; cached unless `fresh`.
 * @param {{fresh?: boolean}} [options]
 * @returns {Promise<AdapterFile[]>}
 */
export function listAdapters({ fresh = false } = {}) {
    if (!listed || fresh) {
        listed = getJson("/lokr/adapters").then((body) => keep(body.adapters ?? []));
        listed.catch(() => (listed = null));
    }
    return listed;
}

const PAUSE = 300; // milliseconds between two questions for what was read meanwhile

/** The adapter files now, then again with each that the server reads, until all are read. */
export async function* readAdapters() {
    let { adapters, reading, position } = await getJson("/lokr/adapters");
    /** @type {Map<string, AdapterFile>} */
    const files = new Map(adapters.map((/** @type {AdapterFile} */ file) => [file.name, file]));
    for (;;) {
        const all = [...files.values()];
        listed = Promise.resolve(all);
        keep(all);
        yield { files: all, reading: /** @type {number} */ (reading ?? 0) };
        if (!reading) return;
        await new Promise((resume) => setTimeout(resume, PAUSE));
        ({ adapters, reading, position } = await getJson(`/lokr/adapters?since=${position}`));
        for (const file of adapters) files.set(file.name, file);
    }
}

/** One file and its header's facts; null if the server does not know it. @param {string} name */
export async function adapterFile(name) {
    /** @param {AdapterFile[]} files */
    const find = (files) => files.find((file) => file.name === name);
    const cached = listed !== null;
    const found = find(await listAdapters());
    return found ?? (cached ? find(await listAdapters({ fresh: true })) : undefined) ?? null;
}

/** @param {string} name @returns {Promise<AdapterInfo>} */
export function adapterInfo(name) {
    return getJson(`/lokr/info?name=${encodeURIComponent(name)}`);
}

/** @param {string} name @returns {Promise<{sha256: string, autov2: string}>} */
export function adapterHash(name) {
    return getJson(`/lokr/hash?name=${encodeURIComponent(name)}`);
}

/** The base models in a model file. @param {string} folder @param {string} name @returns {Promise<string[]>} */
export async function baseModels(folder, name) {
    const query = new URLSearchParams({ folder, name });
    return (await getJson(`/lokr/model?${query}`)).base_models;
}

/** The name of the adapter file that a file at hand is; null if no folder has it. @param {File} file @param {Blob} header */
export async function findAdapter(file, header) {
    const query = new URLSearchParams({ name: file.name, size: String(file.size) });
    try {
        const { name } = await getJson(`/lokr/find?${query}`, { method: "POST", body: header });
        return /** @type {string} */ (name);
    } catch (error) {
        if (/** @type {any} */ (error).status === 404) return null;
        throw error;
    }
}

/** The URL of a file's preview image. @param {string} name */
export function previewUrl(name) {
    return api.apiURL(`/lokr/preview?name=${encodeURIComponent(name)}`);
}

/**
 * Copy a picture of ComfyUI's folders to the place beside an adapter file. False if it has one, unless `replace`.
 * @param {string} name
 * @param {{filename: string, subfolder?: string, type?: string}} picture
 * @param {boolean} replace
 */
export async function keepPreview(name, picture, replace) {
    const body = JSON.stringify({ ...picture, replace });
    const headers = { "Content-Type": "application/json" };
    try {
        await getJson(`/lokr/preview?name=${encodeURIComponent(name)}`, { method: "POST", headers, body });
        return true;
    } catch (error) {
        if (/** @type {any} */ (error).status === 409) return false;
        throw error;
    }
}

/**
 * The layout of an architecture (without one: no blocks), and the titles of all architectures.
 * @param {string} [architecture]
 * @returns {Promise<BlockLayout & {architectures: string[]}>}
 */
export function blockLayout(architecture = "") {
    return getJson(`/lokr/blocks?architecture=${encodeURIComponent(architecture)}`);
}
