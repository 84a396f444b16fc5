"""The other names of a target's modules, by its architecture's table."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import accumulate
from typing import NamedTuple

from ._words import (
    DIFFUSERS,
    FUSIONS,
    IN,
    ORIGINAL,
    REST,
    Architecture,
    Rule,
    Shape,
    Side,
    Slot,
    View,
    Weight,
    mask_numbers,
)

Named = tuple[str, str, tuple[Slot, ...]]
"""(side of the name, the name, where an update of that name goes)"""


class RuleUse(NamedTuple):
    """One pattern of a rule: the `member`-th of its side. `numbers`: its block numbers, literal or `{i}`."""

    numbers: tuple[str, ...]
    rule: Rule
    member: int


def aliases_in(view: View) -> dict[str, tuple[Slot, ...]]:
    """``aliases`` of the target, see there."""
    sides = {ORIGINAL: view.architecture.original, DIFFUSERS: view.architecture.diffusers}
    found: dict[str, tuple[Slot, ...]] = {}
    for side, name, slots in (*_translated(view), *_own(view)):
        found.setdefault(name, slots)
        for spelling in spellings(name, sides[side]):
            found.setdefault(spelling, slots)
    for name, slots in _fusions(view, found):
        found.setdefault(name, slots)
    for weight in view.weights.values():
        found.pop(weight.module, None)
    return found


def _fusions(view: View, found: Mapping[str, tuple[Slot, ...]]) -> list[tuple[str, tuple[Slot, ...]]]:
    """Diffusers' names of the modules that `fuse_qkv_projections` makes, one slot for each fused part."""
    rows = {(weight.module, weight.parameter): weight.shape[0] for weight in view.weights.values()}
    fused = []
    for whole, members in FUSIONS:
        for name in [name for name in found if name.endswith(f".{members[0]}")]:
            parent = name[: -len(members[0])]
            parts = [found.get(parent + member, ()) for member in members]
            if any(len(part) != 1 or part[0].swap or part[0].source_rows for part in parts):
                continue
            sizes = [slot.rows[1] if slot.rows else rows[slot.module, slot.parameter] for (slot,) in parts]
            slots = (replace(slot, source_rows=span) for (slot,), span in zip(parts, _spans(sizes), strict=True))
            fused.append((parent + whole, tuple(slots)))
    return fused


def _spans(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(start, length) of parts of these sizes, one after another."""
    return zip(accumulate(sizes, initial=0), sizes, strict=False)


def spellings(name: str, side: Side | None) -> Iterator[str]:
    """The other spellings and prefixes of a name of this side."""
    if side is None:
        return
    for group in side.prefixes:
        if name.startswith(group.prefixes[0]):
            rest = name[len(group.prefixes[0]) :]
            yield from (prefix + rest for prefix in group.prefixes[1:])
            break
    for spelling in side.spellings:
        respelled = name
        for text, replacement in spelling:
            respelled = respelled.replace(text, replacement)
        if respelled != name:
            yield respelled


def _index(rules: Iterable[Rule], side: str) -> dict[str, list[RuleUse]]:
    """Pattern of `side` with masked numbers -> the rules that it belongs to."""
    index: dict[str, list[RuleUse]] = {}
    for rule in rules:
        for member, pattern in enumerate(rule.names(side)):
            masked, numbers = mask_numbers(pattern)
            index.setdefault(masked, []).append(RuleUse(numbers, rule, member))
    return index


@cache
def _static_index(architecture: Architecture, side: str) -> dict[str, list[RuleUse]]:
    return _index(architecture.rules, side)


def _matches(view: View) -> Iterator[tuple[Weight, Rule, int, dict[str, str]]]:
    """Every weight of the target with every rule that names it: (weight, rule, member, block numbers)."""
    table = view.architecture
    indexes = [_static_index(table, view.side)]
    if table.expand:
        indexes.append(_index(table.expand(view.side, view.weights.keys()), view.side))
    for name, weight in view.weights.items():
        masked, numbers = mask_numbers(name)
        for index in indexes:
            for pattern, rule, member in index.get(masked, ()):
                binding = bind(pattern, numbers)
                if binding is not None and _has_ratio(weight.shape, rule.ratio):
                    yield weight, rule, member, binding


def bind(pattern: Collection[str], numbers: Iterable[str]) -> dict[str, str] | None:
    """Variables of a pattern -> a name's numbers. Returns None if a literal number differs."""
    binding: dict[str, str] = {}
    for wanted, number in zip(pattern, numbers, strict=True):
        if wanted[0] == "{":
            binding[wanted[1:-1]] = number
        elif wanted != number:
            return None
    return binding


def _has_ratio(shape: Shape, ratio: float | None) -> bool:
    return ratio is None or (len(shape) > 1 and shape[0] == ratio * shape[1])


def _own(view: View) -> Iterator[Named]:
    for name, weight in view.weights.items():
        yield view.side, name, (Slot(weight.module, parameter=weight.parameter),)


def _translated(view: View) -> Iterator[Named]:
    """Every weight by its names of the other side, and each part of a fused original weight as `name.number`."""
    other = DIFFUSERS if view.side == ORIGINAL else ORIGINAL
    parts: dict[tuple[str, Rule], dict[int, Weight]] = {}
    for weight, rule, member, numbers in _matches(view):
        here, there = rule.names(view.side), rule.names(other)
        if len(there) == 1:
            parts.setdefault((there[0].format(**numbers), rule), {})[member] = weight
            continue
        name = here[0].format(**numbers)
        for part, slots in enumerate(_dealt(view, rule, weight, numbers)):
            yield other, there[part].format(**numbers), slots
            if view.side == ORIGINAL:
                yield ORIGINAL, f"{name}.{part}", slots
    for (name, rule), members in parts.items():
        count = len(rule.names(view.side))
        if count == 1:
            yield other, name, _whole(members[0], rule, view.side)
            continue
        if other == ORIGINAL:
            for part, weight in members.items():
                yield ORIGINAL, f"{name}.{part}", (Slot(weight.module, parameter=weight.parameter),)
        if len(members) < count:  # the missing parts' sizes are unknown
            continue
        yield other, name, _joined(view, rule, [members[part] for part in range(count)])


def _dealt(view: View, rule: Rule, weight: Weight, numbers: Mapping[str, str]) -> list[tuple[Slot, ...]]:
    """The slots in a fused weight of each of its parts."""
    if rule.stripes is None:
        spans = _spans(_sizes(view, rule, weight, numbers))
        return [(Slot(weight.module, span, parameter=weight.parameter),) for span in spans]
    count = len(rule.names(DIFFUSERS if view.side == ORIGINAL else ORIGINAL))
    return [
        tuple(Slot(weight.module, there, source_rows=here, parameter=weight.parameter) for here, there in stripes)
        for stripes in _stripes(view, rule.stripes, [weight.shape[0] // count] * count)
    ]


def _joined(view: View, rule: Rule, weights: Sequence[Weight]) -> tuple[Slot, ...]:
    """The slots in the parts of a weight that is fused on the other side."""
    sizes = [weight.shape[0] for weight in weights]
    if rule.stripes is None:
        parts = zip(weights, _spans(sizes), strict=True)
        return tuple(Slot(weight.module, source_rows=span, parameter=weight.parameter) for weight, span in parts)
    slots = (
        Slot(weight.module, here, source_rows=there, parameter=weight.parameter)
        for weight, stripes in zip(weights, _stripes(view, rule.stripes, sizes), strict=True)
        for here, there in stripes
    )
    return tuple(sorted(slots, key=lambda slot: slot.source_rows or ()))


def _stripes(
    view: View, stripes: tuple[str, int], sizes: Sequence[int]
) -> Iterator[list[tuple[tuple[int, int], tuple[int, int]]]]:
    """For each part, (rows of the part, rows of the whole) of its stripes, as (start, length)."""
    module, times = stripes
    size = view.weights[module].shape[0] * times
    for part, rows in enumerate(sizes):
        starts = range(0, rows, size)
        yield [((at, size), (at * len(sizes) + part * size, size)) for at in starts]


def _whole(weight: Weight, rule: Rule, side: str) -> tuple[Slot, ...]:
    """The slots in a weight that has one name on each side: one, or one per permuted part of its rows."""
    if not rule.order:
        return (Slot(weight.module, swap=rule.swap, parameter=weight.parameter),)
    size = weight.shape[0] // len(rule.order)
    parts = enumerate(rule.order)  # (part in diffusers, part in the original)
    moves = ((theirs, ours) if side == ORIGINAL else (ours, theirs) for theirs, ours in parts)
    return tuple(
        Slot(weight.module, (here * size, size), source_rows=(there * size, size), parameter=weight.parameter)
        for there, here in sorted(moves)
    )


def _sizes(view: View, rule: Rule, weight: Weight, numbers: Mapping[str, str]) -> list[int]:
    """Rows of each part of a fused weight. Returns [] if the sizes do not add up to the weight's rows."""
    sizes = []
    for size in rule.sizes:
        measured = weight if size == IN else view.weights.get(size.format(**numbers))
        if size == REST:
            sizes.append(0)
        elif measured is None or len(measured.shape) < 2:
            return []
        else:
            sizes.append(measured.shape[1])
    left, shares = weight.shape[0] - sum(sizes), rule.sizes.count(REST)
    if left < 0 or (shares and left % shares) or (not shares and left):
        return []
    return [size if kind != REST else left // shares for kind, size in zip(rule.sizes, sizes, strict=True)]


def spelled_in(view: View, side: str) -> dict[str, tuple[Slot, ...]]:
    """``spelled`` of the target, see there."""
    found: dict[str, tuple[Slot, ...]] = {}
    if side != view.side:
        # `qkv.0`, an alias of a part, is not a module's name.
        fused = {rule.original.format(**n) for _, rule, _, n in _matches(view) if len(rule.diffusers) > 1}
        for of, name, slots in _translated(view):
            parent, _, last = name.rpartition(".")
            if of == side and not (last.isdigit() and parent in fused):
                found.setdefault(name, slots)
    named = {slot.module for slots in found.values() for slot in slots}
    for of, name, slots in _own(view):
        if of == side or slots[0].module not in named:
            found.setdefault(name, slots)
    return found
