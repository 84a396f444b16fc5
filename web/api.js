// The pack's routes on ComfyUI's server (nodes/routes.py).

import { api } from "./host.js";

/**
 * @typedef {object} AdapterFile
 * @property {string} name as in the nodes' list of files
 * @property {string | null} [base_model]
 * @property {string | null} [kind]
 * @property {number} [size] bytes
 * @property {number} [mtime] seconds since 1970
 * @property {boolean} [has_preview]
 * @property {string} [fingerprint] of the file's path and version
 *
 * @typedef {object} AdapterInfo
 * @property {string} name
 * @property {string | null} [kind]
 * @property {string | null} [base_model]
 * @property {string | null} [base_model_text]
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
 * @typedef {object} BlockLayout the blocks of an architecture, in the order in which the model runs them
 * @property {string | null} architecture
 * @property {{name: string, list: string, label: string, blocks: string[]}[]} groups
 * @property {{name: string, text: string}[]} presets those whose blocks exist
 */

/** @param {string} path @returns {Promise<any>} */
async function getJson(path) {
    const answer = await api.fetchApi(path);
    const body = await answer.json().catch(() => null);
    if (!answer.ok) throw new Error(errorText(body) ?? `${answer.status} ${answer.statusText}`);
    return body;
}

/** An error of the routes as text, a line per field. @param {any} body @returns {string | undefined} */
function errorText(body) {
    if (typeof body?.error !== "string") return undefined;
    const details = ["module", "expected", "found", "hint"].filter((key) => body[key]);
    return [body.error, ...details.map((key) => `${key}: ${body[key]}`)].join("\n");
}

/** @type {Promise<AdapterFile[]> | null} */
let listed = null;

/**
 * The adapter files and their headers' facts; cached unless `fresh`.
 * @param {{fresh?: boolean}} [options]
 * @returns {Promise<AdapterFile[]>}
 */
export function listAdapters({ fresh = false } = {}) {
    if (!listed || fresh) {
        listed = getJson("/lokr/adapters").then((body) => body.adapters ?? []);
        listed.catch(() => (listed = null));
    }
    return listed;
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

/** The URL of a file's preview image. @param {string} name */
export function previewUrl(name) {
    return api.apiURL(`/lokr/preview?name=${encodeURIComponent(name)}`);
}

/**
 * The layout of an architecture (without one: no blocks), and the titles of all architectures.
 * @param {string} [architecture]
 * @returns {Promise<BlockLayout & {architectures: string[]}>}
 */
export function blockLayout(architecture = "") {
    return getJson(`/lokr/blocks?architecture=${encodeURIComponent(architecture)}`);
}
