"""Names that a target does not know as they are: two namings in one name, or a wrapper's name before a known one.

Query, key, value and output have one shape, so a shape that fits proves nothing. A place is accepted only if it is the
only one that the name allows, and no other module of the file has it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import accumulate
from typing import NamedTuple

from ..modules import ModuleName, holds_prefix
from ..names import roots
from ._match import UNKNOWN, FileModule, Match, Place, Refusal, place
from ._target import Target

_AMBIGUOUS = Refusal("its name fits several weights of this model")

Groups = dict[str, dict[FileModule, list[Match]]]
"""What was removed before the names -> the places of the modules that share it."""


class Rows(NamedTuple):
    """Rows of a weight, and the module that goes there."""

    weight: str
    start: int
    stop: int
    module: str


def place_unknown(places: dict[FileModule, Place], target: Target) -> list[str]:
    """Place those of ``places`` that have an unknown name, in place. Returns notes on what was assumed."""
    unknown = [one for one, found in places.items() if found == UNKNOWN]
    if not unknown:
        return []
    groups: Groups = {}
    for one in unknown:
        found = _only_place(one, one.name, target)
        if found is _AMBIGUOUS:
            places[one] = found
        elif not isinstance(found, Refusal):
            groups[f"{one.module} "] = {one: found}  # with a space: no name's beginning
    mixed = {one for group in groups.values() for one in group}
    prefixed = _groups([one for one in unknown if one not in mixed and places[one] is not _AMBIGUOUS], places, target)
    _accept({**groups, **prefixed}, places)
    kept = {prefix: group for prefix, group in prefixed.items() if not isinstance(places[next(iter(group))], Refusal)}
    return [f"{len(group)} modules were found without “{prefix}” before their names" for prefix, group in kept.items()]


def _only_place(one: FileModule, name: ModuleName, target: Target) -> Place:
    """The only place that ``name`` allows, as the target's or as a mixed name."""
    refusal = UNKNOWN
    for candidates in (target.candidates(name), target.mixed(name)):
        found: dict[tuple, list[Match]] = {}
        for candidate in candidates:
            placed = place(one, [candidate], target)
            if isinstance(placed, Refusal):
                refusal = placed
            else:
                found.setdefault(tuple((match.weight, match.slot) for match in placed), placed)
            if found and name.component.startswith("te"):
                break  # encoders of one kind share their names; the likeliest stands first
        if found:
            return next(iter(found.values())) if len(found) == 1 else _AMBIGUOUS
    return refusal


def _groups(unknown: list[FileModule], places: dict[FileModule, Place], target: Target) -> Groups:
    """The groups of modules that share an unknown prefix, each of which has a place without it."""
    found: dict[FileModule, tuple[str, list[Match]]] = {}
    for one in unknown:
        prefix, without = _without_prefix(one, target)
        if without is _AMBIGUOUS:
            places[one] = without
        elif not isinstance(without, Refusal):
            found[one] = prefix, without
    groups: Groups = {}
    left = list(unknown)
    for prefix in sorted({prefix for prefix, _ in found.values()}, key=len, reverse=True):
        sharing = [one for one in left if one.name.path.startswith(prefix)]
        group = {one: found[one][1] for one in sharing if one in found and found[one][0] == prefix}
        # What is no LoKr may be of a layer that this host does not have.
        if all(one in group for one in sharing if one.kind == "LoKr"):
            groups[prefix] = group
            left = [one for one in left if one not in group]
    return groups


def _without_prefix(one: FileModule, target: Target) -> tuple[str, Place]:
    """(what stands before the first name that the target or a table knows, the module's place without it)."""
    name = one.name
    sign = "_" if name.flattened or "." not in name.path else "."
    pieces = name.path.split(sign)
    for count in range(len(pieces)):
        words = pieces[count : count + 1] if sign == "." else accumulate(pieces[count:], "{}_{}".format)
        if any(target.knows(word) or word in roots() for word in words):
            break
        if pieces[count].isdigit():  # a block's: it stands in no wrapper's name
            return "", UNKNOWN
    else:
        return "", UNKNOWN
    prefix, rest = sign.join((*pieces[:count], "")), sign.join(pieces[count:])
    if not prefix or holds_prefix(prefix):
        return "", UNKNOWN
    # A prefix names no text encoder, and a file for a denoiser may be tried on a text encoder.
    bare = replace(name, path=rest, full=rest, component=name.component or "unet")
    return prefix, _only_place(one, bare, target)


def _accept(groups: Mapping[str, Mapping[FileModule, list[Match]]], places: dict[FileModule, Place]) -> None:
    """Put the groups into ``places``, but for those that share a weight's rows with another module of the file."""
    taken = [rows for one, found in places.items() if not isinstance(found, Refusal) for rows in _rows(one, found)]
    new = [rows for group in groups.values() for one, found in group.items() for rows in _rows(one, found)]
    shared = _shared([*taken, *new])
    for prefix, group in groups.items():
        twice = {one: other for one in group if (other := shared.get(one.module))}
        for one, found in group.items():
            if not twice:
                places[one] = found
            elif one in twice:
                places[one] = Refusal("another module of the file goes to the same weight", twice[one])
            else:
                places[one] = Refusal(f"a module that also begins with “{prefix}” has a weight that another has too")


def _rows(one: FileModule, found: Iterable[Match]) -> Iterator[Rows]:
    for match in found:
        for start, update in match.pieces:
            yield Rows(match.weight, start, start + update.shape[0], one.module)


def _shared(every: Iterable[Rows]) -> dict[str, str]:
    """Module -> another module that goes to some of the same rows."""
    by_weight: dict[str, list[Rows]] = defaultdict(list)
    for rows in every:
        by_weight[rows.weight].append(rows)
    shared: dict[str, str] = {}
    for found in by_weight.values():
        furthest = None
        for rows in sorted(found, key=lambda rows: rows.start):
            if furthest and rows.start < furthest.stop and rows.module != furthest.module:
                shared.setdefault(rows.module, furthest.module)
                shared.setdefault(furthest.module, rows.module)
            if furthest is None or rows.stop > furthest.stop:
                furthest = rows
    return shared
