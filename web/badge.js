// The badge of a node: green, amber or red after a run, with reasons; before it the kind of its file.

import { adapterFile } from "./api.js";
import { button, h } from "./dom.js";
import { showReport, SIGNS } from "./report.js";
import { t, told } from "./texts.js";

/**
 * @typedef {{reason: string, count: number, examples?: string[]}} Reason
 * @typedef {object} Report of one adapter, from the nodes' ui output `lokr_report`
 * @property {number} applied modules that act: those found, 0 at strength 0
 * @property {number} found modules with a place in the model
 * @property {number} total
 * @property {string} mode merge or live
 * @property {"ok" | "warn" | "error"} level
 * @property {string} summary
 * @property {Reason[]} reasons
 * @property {string | null} [file] its name among the adapters
 * @property {string} [title] what introduces it, where a node has several
 * @property {number | null} [row] of a stack
 * @property {string} [fingerprint] of the file that was applied
 * @property {number[]} [strengths] on the model and, where it acts, the clip
 * @property {string[]} [notes] what was assumed, and why it is in its mode
 * @property {{count: number, name: string, kind: string, status: string}[]} [groups] names without block numbers
 */

/** @typedef {"none" | "file" | "past" | "ok" | "warn" | "error"} Level */

/**
 * One line for all reports: the worst level, the sums of their counts, their modes.
 * @param {Report[]} reports
 * @returns {{level: "ok" | "warn" | "error", text: string}}
 */
export function summaryOf(reports) {
    const level = /** @type {const} */ (["error", "warn"]).find((one) => reports.some((r) => r.level === one)) ?? "ok";
    const sum = (/** @type {"applied" | "found" | "total"} */ key) => reports.reduce((all, one) => all + one[key], 0);
    const [applied, found, total] = [sum("applied"), sum("found"), sum("total")];
    const modes = [...new Set(reports.map((report) => report.mode).filter(Boolean))].join(` ${t("and")} `);
    const missing = total - found;
    const part = missing
        ? t("{found}/{total} · {missing} not found", { found, total, missing })
        : t("{applied}/{total} applied", { applied, total });
    const idle = found > 0 && applied === 0 && t("strength 0");
    const files = reports.length > 1 && t("{count} files", { count: reports.length });
    return { level, text: [part, files, idle || modes].filter(Boolean).join(" · ") };
}

export class Badge {
    constructor() {
        /** @type {Report[]} */
        this.reports = [];
        this.error = "";
        /** The node's signature when it failed. */
        this.failed = "";
        this.file = "";
        this.text = h("span.lokr-badge-text");
        this.sign = h("span.lokr-badge-sign", { "aria-hidden": "true" });
        this.element = button("", this.sign, () => this.explain());
        this.element.classList.add("lokr-badge");
        this.element.removeAttribute("aria-label");
        this.element.append(this.text);
        this.element.setAttribute("data-key", "badge");
        /** What a click does while there is nothing to explain. @type {(() => void) | null} */
        this.instead = null;
        this.show("none", t("not run yet"));
    }

    /** @param {Level} level @param {string} text */
    show(level, text) {
        this.element.dataset.level = level;
        this.sign.textContent = SIGNS[level];
        this.text.textContent = text;
        const reasons = level === "warn" || level === "error";
        this.element.title = reasons ? `${text}\n${t("click for the reasons")}` : text;
        this.element.disabled = level === "file" || (level === "none" && !this.instead);
    }

    /** Before a run: show the file's kind and base model, from its header. @param {string} name */
    async describe(name) {
        this.file = name;
        this.reports = [];
        this.error = "";
        this.show("none", name || !this.instead ? t("not run yet") : t("choose a file"));
        try {
            const file = await adapterFile(name);
            const untouched = this.file === name && !this.reports.length && !this.error;
            const about = [file?.kind, file?.base_model].filter(Boolean).map((text) => told(String(text)));
            if (file && untouched) this.show("file", about.join(" · ") || name);
        } catch {
            // A server without the routes: the badge stays empty until a run.
        }
    }

    /** Before the first run of a node without a file. */
    rest() {
        this.error = "";
        this.show("none", t("not run yet"));
    }

    /** @param {Report[]} reports @param {boolean} present whether a run now would apply the same */
    report(reports, present) {
        this.error = "";
        this.reports = reports;
        const { level, text } = summaryOf(reports);
        if (present) this.show(level, text);
        else this.show("past", t("last run: {text}", { text }));
    }

    /** @param {string} message @param {string} signature */
    fail(message, signature) {
        this.reports = [];
        this.error = message;
        this.failed = signature;
        this.show("error", told(message.split("\n")[0]));
    }

    explain() {
        if (this.error || this.reports.length) showReport(this.error, this.reports);
        else this.instead?.();
    }
}
