// The badge of a node: green, amber or red after a run, with reasons; before it the kind of its file.

import { adapterFile } from "./api.js";
import { openDialog } from "./dialog.js";
import { button, h } from "./dom.js";

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
 * @property {string[]} [notes]
 */

/** @typedef {"none" | "file" | "past" | "ok" | "warn" | "error"} Level */

const SIGNS = { none: "", file: "", past: "", ok: "✓", warn: "!", error: "✕" };

/**
 * One line for all reports: the worst level, the sums of their counts, their modes.
 * @param {Report[]} reports
 * @returns {{level: "ok" | "warn" | "error", text: string}}
 */
export function summaryOf(reports) {
    const level = /** @type {const} */ (["error", "warn"]).find((one) => reports.some((r) => r.level === one)) ?? "ok";
    const sum = (/** @type {"applied" | "found" | "total"} */ key) => reports.reduce((all, one) => all + one[key], 0);
    const [applied, found, total] = [sum("applied"), sum("found"), sum("total")];
    const modes = [...new Set(reports.map((report) => report.mode).filter(Boolean))].join(" and ");
    const part = found < total ? `${found}/${total} · ${total - found} not found` : `${applied}/${total} applied`;
    const idle = found > 0 && applied === 0 && "strength 0";
    const files = reports.length > 1 && `${reports.length} files`;
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
        this.show("none", "not run yet");
    }

    /** @param {Level} level @param {string} text */
    show(level, text) {
        this.element.dataset.level = level;
        this.sign.textContent = SIGNS[level];
        this.text.textContent = text;
        this.element.title = level === "warn" || level === "error" ? `${text}\nclick for the reasons` : text;
        this.element.disabled = level === "none" || level === "file";
    }

    /** Before a run: show the file's kind and base model, from its header. @param {string} name */
    async describe(name) {
        this.file = name;
        this.reports = [];
        this.error = "";
        this.show("none", "not run yet");
        try {
            const file = await adapterFile(name);
            const untouched = this.file === name && !this.reports.length && !this.error;
            if (file && untouched) this.show("file", [file.kind, file.base_model].filter(Boolean).join(" · ") || name);
        } catch {
            // A server without the routes: the badge stays empty until a run.
        }
    }

    /** @param {Report[]} reports @param {boolean} present whether a run now would apply the same */
    report(reports, present) {
        this.error = "";
        this.reports = reports;
        const { level, text } = summaryOf(reports);
        if (present) this.show(level, text);
        else this.show("past", `last run: ${text}`);
    }

    /** @param {string} message @param {string} signature */
    fail(message, signature) {
        this.reports = [];
        this.error = message;
        this.failed = signature;
        this.show("error", message.split("\n")[0]);
    }

    explain() {
        const content = this.error ? h("pre.lokr-error", {}, this.error) : h("div", {}, ...this.reports.map(explained));
        openDialog({ kind: "report", title: "What the last run applied", content });
    }
}

/** @param {Report} report */
function explained(report) {
    const rows = report.reasons.map(({ reason, count, examples = [] }) =>
        h(
            "tr",
            {},
            h("td.lokr-number", {}, String(count)),
            h("td", {}, reason),
            h("td", {}, ...examples.flatMap((example) => [h("code", {}, example), h("br")])),
        ),
    );
    const head = h("tr", {}, ...["modules", "reason", "for example"].map((text) => h("th", { scope: "col" }, text)));
    return h(
        "section",
        {},
        h("h3", {}, report.title || report.file || ""),
        h("p.lokr-level", { "data-level": report.level }, `${SIGNS[report.level]} ${report.summary}`),
        rows.length > 0 && h("table.lokr-table", {}, h("thead", {}, head), h("tbody", {}, ...rows)),
    );
}
