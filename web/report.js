// The report's dialog: what a run made of each file.

import { openDialog } from "./dialog.js";
import { button, copyText, h } from "./dom.js";
import { t, told, toldLines } from "./texts.js";

/** @typedef {import("./badge.js").Report} Report */

export const SIGNS = { none: "", file: "", past: "", ok: "✓", warn: "!", error: "✕" };

/** @param {string} error of a run that failed, "" if none did @param {Report[]} reports */
export function showReport(error, reports) {
    const said = h("span.lokr-said", { role: "status" });
    const text = error || reports.map(reportText).join("\n\n");
    const copy = button(t("Copy the report as text"), t("copy"), async () => {
        await copyText(text);
        said.textContent = t("copied");
    });
    copy.dataset.key = "copy-report";
    const shown = error ? [h("pre.lokr-error", {}, toldLines(error))] : reports.map(explained);
    const content = h("div.lokr-report", {}, ...shown, h("p.lokr-tools", {}, copy, said));
    openDialog({ kind: "report", title: t("What the last run applied"), content });
}

/** @param {Report} report */
function titleOf(report) {
    return report.title || report.file || "";
}

/** The strengths of a report, by what they act on. @param {Report} report @returns {[string, string][]} */
function strengthsOf({ strengths = [] }) {
    const names = [t("strength on the model"), t("strength on the clip")];
    return strengths.map((strength, at) => [names[at], String(Number(strength.toFixed(4)))]);
}

/** A report as text, for a message to someone who can help; in English, as the log has it. @param {Report} report */
function reportText(report) {
    const strengths = (report.strengths ?? []).map((strength, at) => `strength_${["model", "clip"][at]}: ${strength}`);
    const reasons = report.reasons.map(
        ({ count, reason, examples = [] }) => `${count} × ${reason} (${examples.join(", ")})`,
    );
    const groups = (report.groups ?? []).map(
        ({ count, name, kind, status }) => `${count} × ${name} [${kind}]: ${status}`,
    );
    const notes = (report.notes ?? []).map((note) => `note: ${note}`);
    return [titleOf(report), report.summary, ...strengths, ...notes, ...reasons, ...groups].filter(Boolean).join("\n");
}

/** @param {Report} report */
function explained(report) {
    const facts = h("dl.lokr-facts");
    const mode = report.mode ? [[t("mode"), report.mode]] : [];
    for (const [name, value] of [[t("file"), report.file ?? ""], ...strengthsOf(report), ...mode]) {
        if (value) facts.append(h("dt", {}, name), h("dd", {}, value));
    }
    const notes = (report.notes ?? []).map((note) => h("li", {}, told(note)));
    return h(
        "section",
        {},
        h("h3", {}, titleOf(report)),
        h("p.lokr-level", { "data-level": report.level }, `${SIGNS[report.level]} ${told(report.summary)}`),
        facts,
        notes.length > 0 && h("ul", {}, ...notes),
        reasonsOf(report),
        groupsOf(report),
    );
}

/** @param {Report} report */
function reasonsOf({ reasons }) {
    if (!reasons.length) return null;
    const rows = reasons.map(({ reason, count, examples = [] }) => [
        h("td.lokr-number", {}, String(count)),
        h("td", {}, told(reason)),
        h("td", {}, ...examples.flatMap((example) => [h("code", {}, example), h("br")])),
    ]);
    return table([t("modules"), t("reason"), t("for example")], rows);
}

/** @param {Report} report */
function groupsOf({ groups = [] }) {
    if (!groups.length) return null;
    const rows = groups.map(({ count, name, kind, status }) => [
        h("td.lokr-number", {}, String(count)),
        h("td", {}, h("code", {}, name)),
        h("td", {}, kind),
        h("td", {}, told(status)),
    ]);
    const inside = table([t("modules"), t("name"), t("kind"), t("became")], rows);
    return h("details", {}, h("summary", {}, t("All modules, by their names")), inside);
}

/** @param {string[]} head @param {HTMLElement[][]} rows */
function table(head, rows) {
    const titles = head.map((text) => h("th", { scope: "col" }, text));
    const lines = rows.map((cells) => h("tr", {}, ...cells));
    return h("table.lokr-table", {}, h("thead", {}, h("tr", {}, ...titles)), h("tbody", {}, ...lines));
}
