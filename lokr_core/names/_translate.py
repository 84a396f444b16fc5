"""Reads a target's names with the tables: which architecture it is, and what else its modules are called."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from ._registry import ARCHITECTURES
from ._words import DIFFUSERS, FUSIONS, IN, ORIGINAL, REST, Architecture, Rule, Side, Slot

Shape = tuple[int, ...]

_NUMBER = re.compile(r"(?:(?<=\.)|^)(\d+)(?=\.|$)")
_VARIABLE = re.compile(r"(?:(?<=\.)|^)(\d+|\{\w+\})(?=\.|$)")
# The last one is of no use but to tell Cosmos 1 from Cosmos-Predict2.
_PARAMETERS = frozenset(("weight", "scale", "gamma", "in_proj_weight", "pos_emb_t"))


Named = tuple[str, str, tuple[Slot, ...]]
"""(side a name belongs to, the name, where its update goes)"""


class Weight(NamedTuple):
    """A weight of the target: its module's path, the parameter's name in there, its shape."""

    module: str
    parameter: str
    shape: Shape


class Entry(NamedTuple):
    """A rule found through one of its patterns: `numbers` are the pattern's block numbers, literal or `{name}`."""

    numbers: tuple[str, ...]
    rule: Rule
    member: int


class View(NamedTuple):
    """A target as tables see it: the side its names belong to, and its weights by the tables' spelling."""

    architecture: Architecture
    side: str
    weights: Mapping[str, Weight]


def detect(shapes: Mapping[str, Shape]) -> Architecture | None:
    """The architecture of a target, from its weights' names (and numbers of axes); None where no table knows it.

    `shapes`: parameter names of the target without the host's prefix -> shapes. Both name spaces are known.
    """
    view = _view(shapes)
    return view.architecture if view else None


def aliases(shapes: Mapping[str, Shape]) -> dict[str, tuple[Slot, ...]]:
    """What else the modules of a target are called: module name -> where an update of that name goes.

    A target in original names gives diffusers' names, each with the rows it has in a fused weight; a target in
    diffusers' names gives the original ones, a fused one with a slot per part. A part of a fused weight is also
    called by the fused name and its number (`qkv.0`), as OneTrainer's OMI files do. Further spellings of either side
    are included; the target's own names are not. Empty where no table knows the target.
    """
    view = _view(shapes)
    if view is None:
        return {}
    sides = {ORIGINAL: view.architecture.original, DIFFUSERS: view.architecture.diffusers}
    found: dict[str, tuple[Slot, ...]] = {}
    for side, name, slots in (*_translated(view), *_own(view)):
        found.setdefault(name, slots)
        for spelled in _spellings(name, sides[side]):
            found.setdefault(spelled, slots)
    for name, slots in _fusions(view, found):
        found.setdefault(name, slots)
    for weight in view.weights.values():
        found.pop(weight.module, None)
    return found


def _fusions(view: View, found: Mapping[str, tuple[Slot, ...]]) -> list[tuple[str, tuple[Slot, ...]]]:
    """What diffusers calls modules of a block that it has fused, wherever their parts lie in the target."""
    rows = {(weight.module, weight.parameter): weight.shape[0] for weight in view.weights.values()}
    own = {name: (Slot(weight.module, parameter=weight.parameter),) for name, weight in view.weights.items()}
    places = {**own, **found}
    fused_ones = []
    for whole, members in FUSIONS:
        for name in [name for name in places if name.endswith(f".{members[0]}")]:
            parent = name[: -len(members[0])]
            parts = [places.get(parent + member, ()) for member in members]
            if any(len(part) != 1 or part[0].swap or part[0].source_rows for part in parts):
                continue
            slots, start = [], 0
            for (slot,) in parts:
                size = slot.rows[1] if slot.rows else rows[slot.module, slot.parameter]
                slots.append(replace(slot, source_rows=(start, size)))
                start += size
            fused_ones.append((parent + whole, tuple(slots)))
    return fused_ones


def _view(shapes: Mapping[str, Shape]) -> View | None:
    modules: dict[str, Weight] = {}
    for name, shape in shapes.items():
        module, _, parameter = name.rpartition(".")
        if parameter in _PARAMETERS:
            modules[module] = Weight(module, parameter, tuple(shape))
    for architecture in ARCHITECTURES:
        for side, names in ((ORIGINAL, architecture.original), (DIFFUSERS, architecture.diffusers)):
            weights = _canonical(modules, names) if names else None
            if weights is not None and _fits(weights, names):
                return View(architecture, side, weights)
    return None


def _canonical(modules: Mapping[str, Weight], side: Side) -> Mapping[str, Weight] | None:
    """The target's weights under the prefixes the tables use; None where a probe of the side is missing."""
    if not side.prefixes:
        return modules
    used = []
    for group in side.prefixes:
        prefix = next((p for p in group.prefixes if p + group.probe in modules), None)
        if prefix is None and group is side.prefixes[0]:
            return None
        if prefix is not None:
            used.append((prefix, group.prefixes[0]))
    used.sort(key=lambda pair: -len(pair[0]))
    canonical = {}
    for module, weight in modules.items():
        for prefix, first in used:
            if module.startswith(prefix):
                module = first + module[len(prefix) :]
                break
        canonical[module] = weight
    return canonical


def _fits(weights: Mapping[str, Weight], side: Side) -> bool:
    def present(wanted: str) -> bool:
        module, _, axes = wanted.partition(":")
        return module in weights and (not axes or len(weights[module].shape) == int(axes))

    return all(map(present, side.has)) and not any(map(present, side.lacks))


def _spellings(name: str, side: Side | None) -> Iterator[str]:
    """The other spellings and prefixes of a name of this side."""
    if side is None:
        return
    for group in side.prefixes:
        if name.startswith(group.prefixes[0]):
            rest = name[len(group.prefixes[0]) :]
            yield from (prefix + rest for prefix in group.prefixes[1:])
            break
    for spelling in side.spellings:
        spelled = name
        for text, instead in spelling:
            spelled = spelled.replace(text, instead)
        if spelled != name:
            yield spelled


def _mask(name: str, numbers: re.Pattern[str] = _NUMBER) -> tuple[str, tuple[str, ...]]:
    """A module path with its numbers masked, and the numbers: a.3.b.0 -> a.#.b.#, (3, 0)."""
    pieces = numbers.split(name)
    return "#".join(pieces[::2]), tuple(pieces[1::2])


def _index(rules: Iterable[Rule], side: str) -> dict[str, list[Entry]]:
    index: dict[str, list[Entry]] = {}
    for rule in rules:
        for member, pattern in enumerate(rule.names(side)):
            masked, numbers = _mask(pattern, _VARIABLE)
            index.setdefault(masked, []).append(Entry(numbers, rule, member))
    return index


@cache
def _static_index(architecture: Architecture, side: str) -> dict[str, list[Entry]]:
    return _index(architecture.rules, side)


def _matches(view: View) -> Iterator[tuple[Weight, Rule, int, dict[str, str]]]:
    """Every weight of the target with every rule that names it: (weight, rule, member, block numbers)."""
    table = view.architecture
    indexes = [_static_index(table, view.side)]
    if table.expand:
        indexes.append(_index(table.expand(view.side, view.weights.keys()), view.side))
    for name, weight in view.weights.items():
        masked, numbers = _mask(name)
        for index in indexes:
            for entry in index.get(masked, ()):
                binding = _bind(entry.numbers, numbers)
                if binding is not None and _has_ratio(weight.shape, entry.rule.ratio):
                    yield weight, entry.rule, entry.member, binding


def _bind(pattern: Collection[str], numbers: Iterable[str]) -> dict[str, str] | None:
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
    """Every weight by the other side's names; the parts of the original's fused ones by name and number as well."""
    other = DIFFUSERS if view.side == ORIGINAL else ORIGINAL
    parts: dict[tuple[str, Rule], dict[int, Weight]] = {}
    for weight, rule, member, numbers in _matches(view):
        here, there = rule.names(view.side), rule.names(other)
        if len(there) == 1:
            parts.setdefault((there[0].format(**numbers), rule), {})[member] = weight
            continue
        start, name = 0, here[0].format(**numbers)
        for part, rows in enumerate(_sizes(view, rule, weight, numbers)):
            slots = (Slot(weight.module, (start, rows), parameter=weight.parameter),)
            yield other, there[part].format(**numbers), slots
            if view.side == ORIGINAL:
                yield ORIGINAL, f"{name}.{part}", slots
            start += rows
    for (name, rule), members in parts.items():
        count = len(rule.names(view.side))
        if count == 1:
            yield other, name, _whole(members[0], rule, view.side)
            continue
        if other == ORIGINAL:
            for part, weight in members.items():
                yield ORIGINAL, f"{name}.{part}", (Slot(weight.module, parameter=weight.parameter),)
        if len(members) < count:  # the rows of the rest can't be known
            continue
        slots, start = [], 0
        for _, weight in sorted(members.items()):
            slots.append(Slot(weight.module, source_rows=(start, weight.shape[0]), parameter=weight.parameter))
            start += weight.shape[0]
        yield other, name, tuple(slots)


def _whole(weight: Weight, rule: Rule, side: str) -> tuple[Slot, ...]:
    """Where an update in the other side's names goes in a weight that both sides have, though its rows may be moved."""
    if not rule.order:
        return (Slot(weight.module, swap=rule.swap, parameter=weight.parameter),)
    size = weight.shape[0] // len(rule.order)
    spots = enumerate(rule.order)  # (part in diffusers, part in the original)
    moves = ((theirs, ours) if side == ORIGINAL else (ours, theirs) for theirs, ours in spots)
    return tuple(
        Slot(weight.module, (here * size, size), source_rows=(there * size, size), parameter=weight.parameter)
        for there, here in sorted(moves)
    )


def _sizes(view: View, rule: Rule, weight: Weight, numbers: Mapping[str, str]) -> list[int]:
    """Rows of each part of a fused weight (out, in, ...); no parts where the sizes do not fit the weight."""
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


def spelled(shapes: Mapping[str, Shape], side: str) -> dict[str, tuple[Slot, ...]]:
    """The target's weights in the tables' own names of `side`: module name -> where an update of that name goes.

    Parts of fused weights are slots with rows, fused names of split weights have several slots with `source_rows`.
    Weights that no rule names are called the same on both sides; so are all where no table knows the target.
    """
    view = _view(shapes)
    if view is None:
        modules = (name.rpartition(".") for name in shapes)
        return {module: (Slot(module, parameter=p),) for module, _, p in modules if p in _PARAMETERS}
    found: dict[str, tuple[Slot, ...]] = {}
    if side != view.side:
        # `qkv.0` is an alias for part of a fused weight, not what anybody calls a module.
        whole = {rule.original.format(**n) for _, rule, _, n in _matches(view) if len(rule.diffusers) > 1}
        for of, name, slots in _translated(view):
            if of == side and name.rpartition(".")[0] not in whole:
                found.setdefault(name, slots)
    named = {slot.module for slots in found.values() for slot in slots}
    for of, name, slots in _own(view):
        if of == side or slots[0].module not in named:
            found.setdefault(name, slots)
    return found
