// Strengths of blocks as text, the twin of lokr_core/strengths/_blocks.py (tests/browser/test_blocks.py compares both):
// the last entry that matches a block counts, the default is 1. Patterns of layer names (with *) are kept unchanged.

import { t } from "./texts.js";

/**
 * @typedef {import("./api.js").BlockLayout} BlockLayout
 * @typedef {{name: string, strength: number, raw: string}} Entry `strength` is NaN if the entry is malformed
 */

const ALL = "ALL";
const OTHER = "OTHER";
const NUMBER = /^[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?$/i;
const NUMBERED = /^([A-Za-z_]+(?:\.[A-Za-z_]+)*?)\.?(\d+)(?:-(\d+))?$/;

/** @param {string} text @returns {Entry[]} */
export function entriesOf(text) {
    const pieces = text.split(/[\n,;]/).map((piece) => piece.trim());
    return pieces.filter(Boolean).map((raw) => {
        const [, name, number] = /** @type {RegExpExecArray} */ (/^([^:=]*)[:=]?(.*)$/.exec(raw));
        return { name: name.trim(), strength: name.trim() && NUMBER.test(number.trim()) ? Number(number) : NaN, raw };
    });
}

/**
 * What is wrong with a text, a line per entry. A name with a dot or a star may be a layer's, which only the model knows.
 * @param {BlockLayout | null} layout @param {string} text @returns {string[]}
 */
export function problemsOf(layout, text) {
    return entriesOf(text).flatMap(({ name, strength, raw }) => {
        if (!Number.isFinite(strength)) return [t("{text}: expected name:number, for example IN:0.5", { text: raw })];
        if (!layout?.groups.length || /[.*]/.test(name) || name.toUpperCase() === OTHER || blocksNamed(name, layout)) {
            return [];
        }
        const values = { name, model: layout.architecture ?? "", known: known(layout) };
        return [
            layout.architecture
                ? t("{name}: unknown block of {model}; known: {known}", values)
                : t("{name}: unknown block; known: {known}", values),
        ];
    });
}

/** @param {BlockLayout} layout */
function known({ groups }) {
    const names = groups.map(({ name, blocks }) =>
        blocks.length > 1 ? t("{first} to {last}", { first: blocks[0], last: blocks.at(-1) ?? "" }) : name,
    );
    return [...names.filter((name) => name !== OTHER), OTHER, ALL].join(", ");
}

/**
 * The blocks that a name refers to; null for a pattern of layer names or a name outside the layout.
 * @param {string} name @param {BlockLayout} layout @returns {string[] | null}
 */
export function blocksNamed(name, layout) {
    if (name.toUpperCase() === ALL) return layout.groups.flatMap((group) => group.blocks);
    const numbered = NUMBERED.exec(name);
    const wanted = numbered ? numbered[1] : name;
    const group = layout.groups.find(
        ({ name: short, list }) =>
            short.toUpperCase() === wanted.toUpperCase() || (list && list.toLowerCase() === wanted.toLowerCase()),
    );
    if (!group) return null;
    if (!numbered) return group.blocks;
    const [first, last] = [Number(numbered[2]), Number(numbered[3] ?? numbered[2])];
    const blocks = group.blocks.filter((_, number) => first <= number && number <= last);
    return blocks.length ? blocks : null;
}

/**
 * The strength of every block of the layout.
 * @param {BlockLayout} layout @param {...string} texts later ones override earlier ones
 * @returns {Map<string, number>}
 */
export function strengthsOf(layout, ...texts) {
    const strengths = new Map(layout.groups.flatMap((group) => group.blocks.map((block) => [block, 1])));
    for (const { name, strength } of texts.flatMap(entriesOf)) {
        if (!Number.isFinite(strength)) continue;
        for (const block of blocksNamed(name, layout) ?? []) strengths.set(block, strength);
    }
    return strengths;
}

/**
 * The shortest text with the strengths of `preset`, then `text`, then `changes`.
 * @param {BlockLayout} layout @param {string} preset @param {string} text @param {Map<string, number>} changes
 */
export function changedText(layout, preset, text, changes) {
    const entries = entriesOf(text).map((entry) => ({ ...entry, blocks: blocksNamed(entry.name, layout) }));
    const isPlain = (/** @type {typeof entries[number]} */ { blocks, strength }) => blocks && Number.isFinite(strength);
    // ALL overrides the entries before it.
    const lastAll = entries.findLastIndex((entry) => isPlain(entry) && entry.name.toUpperCase() === ALL);
    const all = entries[lastAll]?.strength;
    const counting = entries.slice(lastAll + 1);
    const lastPlain = counting.findLastIndex(isPlain);
    const patterns = counting.map((entry, index) => ({ ...entry, index })).filter((entry) => !isPlain(entry));
    const [under, over] = [patterns.filter((p) => p.index < lastPlain), patterns.filter((p) => p.index > lastPlain)];

    /** @type {Map<string, number>} */
    const named = new Map();
    for (const entry of counting.filter(isPlain)) {
        for (const block of entry.blocks ?? []) named.set(block, entry.strength);
    }
    changes.forEach((strength, block) => named.set(block, strength));
    if (!under.length) {
        const base = strengthsOf(layout, preset, all === undefined ? "" : `${ALL}:${all}`);
        for (const [block, strength] of named) if (base.get(block) === strength) named.delete(block);
    }
    const lines = [
        all === undefined ? "" : `${ALL}:${all}`,
        ...under.map(({ raw }) => raw),
        ...layout.groups.map((group) => runs(group, named).join(", ")),
        ...over.map(({ raw }) => raw),
    ];
    return lines.filter(Boolean).join("\n");
}

/**
 * Entries for the named blocks of a group: "IN" if all agree, else runs such as "IN0-3".
 * @param {BlockLayout["groups"][number]} group @param {Map<string, number>} named
 */
function runs({ name, blocks }, named) {
    const strengths = blocks.map((block) => named.get(block));
    if (strengths[0] !== undefined && strengths.every((strength) => strength === strengths[0])) {
        return [`${name}:${strengths[0]}`];
    }
    const found = [];
    for (let first = 0; first < blocks.length;) {
        let next = first + 1;
        while (next < blocks.length && strengths[next] === strengths[first]) next++;
        if (strengths[first] !== undefined) {
            const range = next - first > 1 ? `${blocks[first]}-${next - 1}` : blocks[first];
            found.push(`${range}:${strengths[first]}`);
        }
        first = next;
    }
    return found;
}
