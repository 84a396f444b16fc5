"""Names that no side has as a whole: parts of both sides in one name, and parts of a fused weight by their letters.

A converter that knows dotted names leaves parts of a flattened one as they were: `blocks_0_self_attn_to_out_0` has the
original's attention and diffusers' projection. A trainer that keeps query, key and value apart calls them `img_attn_q`,
`img_attn_k` and `img_attn_v` where the checkpoint has one `img_attn.qkv`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

from ._translate import bind, spellings
from ._words import ORIGINAL, Architecture, Rule, View, mask_numbers

Segments = tuple[str, ...]


class Row(NamedTuple):
    """A weight's two names, by segment, and what a name means that ends as one of them does."""

    names: tuple[Segments, Segments]
    means: tuple[str, str]


class State(NamedTuple):
    """A name read up to here: the rows that it may be, how many segments of each side are behind it, its text."""

    rows: tuple[Row, ...]
    read: tuple[int, int]
    text: str


Index = dict[str, list[tuple[tuple[str, ...], str]]]
"""Flattened name with masked numbers -> (its numbers, literal or `{i}`, the table's name that it means) of each."""


def meanings(path: str, index: Index) -> list[str]:
    """Names of both sides that `path`, dotted or flattened, may mean: none, one, or several if it is ambiguous.

    index: of a target, see ``mixed_names``

    >>> from ._registry import ARCHITECTURES
    >>> wan = next(table for table in ARCHITECTURES if table.name == "wan")
    >>> meanings("blocks_3_self_attn_to_out_0", mixed_names(wan))
    ['blocks.3.attn1.to_out.0']
    """
    masked, numbers = mask_numbers(path.replace(".", "_"))
    found = (
        name.format(**binding)
        for pattern, name in index.get(masked, ())
        if (binding := bind(pattern, numbers)) is not None
    )
    return list(dict.fromkeys(found))


def mixed_names(architecture: Architecture, view: View | None = None) -> Index:
    """The names that mix the sides of a table.

    view: the target, of which a table is asked whose block numbers depend on it; None: without those rules
    """
    if view is None or architecture.expand is None:
        return _static_index(architecture)
    return _index(architecture, (*architecture.rules, *architecture.expand(view.side, view.weights.keys())))


@cache
def _static_index(architecture: Architecture) -> Index:
    return _index(architecture, architecture.rules)


def _index(architecture: Architecture, rules: Sequence[Rule]) -> Index:
    index: Index = {}
    # A mixed name does not tell in which side's order the rows are.
    kept = (rule for rule in rules if rule.swap or rule.order or rule.stripes)
    moved = {name for rule in kept for name in (rule.original, *rule.diffusers)}
    plain = (rule for rule in rules if moved.isdisjoint((rule.original, *rule.diffusers)))
    rows = dict.fromkeys(row for rule in plain for row in _rows(architecture, rule))
    for text, name in _texts(State(tuple(rows), (0, 0), "")):
        masked, numbers = mask_numbers(text)
        if set(re.findall(r"\{\w+\}", name)) <= set(numbers):
            index.setdefault(masked, []).append((numbers, name))
    return index


def _rows(architecture: Architecture, rule: Rule) -> Iterator[Row]:
    """The pairs of names of a rule: of all spellings of either side, and of each part of a fused weight."""
    for theirs in rule.diffusers:
        for name in (theirs, *spellings(theirs, architecture.diffusers)):
            for ours in rule.names(ORIGINAL):
                for other in (ours, *spellings(ours, architecture.original)):
                    yield _row(architecture, (name, other), (theirs, ours))
            if len(rule.diffusers) > 1:
                yield from (_row(architecture, (name, other), (theirs, theirs)) for other in _letters(rule, theirs))


def _row(architecture: Architecture, names: tuple[str, str], means: tuple[str, str]) -> Row:
    theirs, ours = (_segments(name, architecture.blocks) for name in names)
    return Row((theirs, ours), means)


def _segments(name: str, blocks: str) -> Segments:
    """The words of a name; that of a block which the sides count differently is one, since half of it says nothing."""
    block = re.match(blocks, name)
    end = block.end() if block else 0
    return (*filter(None, (name[:end].replace(".", "_"),)), *filter(None, name[end:].split(".")))


def _letters(rule: Rule, member: str) -> Iterator[str]:
    """The names of a part of a fused weight in the original's spelling.

    >>> from ._words import fused
    >>> list(_letters(fused("layers.{i}.Wqkv", "layers.{i}.", "to_q to_k to_v"), "layers.{i}.to_k"))[:3]
    ['layers.{i}.Wqkv.k', 'layers.{i}.Wk', 'layers.{i}.k']
    """
    letter = _letter(member)
    yield f"{rule.original}.{letter}"
    joined = "".join(each for each in map(_letter, rule.diffusers) if len(each) == 1)
    parent, dot, word = rule.original.rpartition(".")
    if len(letter) == 1:
        holder = rule.original
        if joined in word:
            yield parent + dot + word.replace(joined, letter)
            holder = parent
        ways = ("{}", "to_{}", "{}_proj", "w{}") if holder == parent else ("to_{}", "{}_proj", "w{}")
        yield from (f"{holder}.{way.format(letter)}" for way in ways)


def _letter(member: str) -> str:
    """`q` of `to_q`, `add_q_proj` and `q_proj`; `mlp` of `proj_mlp`."""
    return re.sub(r"^(to|add|proj)_|_proj$", "", member.rpartition(".")[2])


def _texts(state: State) -> Iterator[tuple[str, str]]:
    """(flattened name, the table's name that it means), for every way to read on from `state`, side by side."""
    for side in (0, 1):
        at = state.read[side]
        following: dict[str, list[Row]] = {}
        for row in state.rows:
            if side and row.names[1][at:] == row.names[0][state.read[0] :]:
                continue  # from here on the two sides are the same
            if len(row.names[side]) > at:
                following.setdefault(row.names[side][at], []).append(row)
        for segment, rows in following.items():
            text = f"{state.text}_{segment}" if state.text else segment
            yield from ((text, row.means[side]) for row in rows if len(row.names[side]) == at + 1)
            longer = tuple(row for row in rows if len(row.names[side]) > at + 1)
            if longer:
                other = _behind(longer, 1 - side, text.count("{"))
                yield from _texts(State(longer, (at + 1, other) if side == 0 else (other, at + 1), text))


def _behind(rows: Sequence[Row], side: int, numbers: int) -> int:
    """How many segments of `side` all rows share: these need no saying. At least the last one, and every block number
    beyond the first `numbers`, does."""
    columns = zip(*(row.names[side][:-1] for row in rows), strict=False)
    at = 0
    for segments in columns:
        numbers -= segments[0][0] == "{"
        if numbers < 0 or len(set(segments)) > 1:
            break
        at += 1
    return at
