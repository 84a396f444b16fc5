"""Where every module of an adapter belongs in a target: by name, checked by shape, and reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate

from ..adapter import Adapter
from ..modules import ModuleName, holds_prefix, own_path
from ..names import Slot, roots
from ._foreign import foreign_updates
from ._guess import guess
from ._match import UNKNOWN, FileModule, Match, Place, Refusal, match, place, rows_of, shared_rows
from ._order import in_named_order, with_meant_names
from ._report import APPLIED, REFUSED, TWO_EXPERTS, Report, looks_like, mismatch
from ._target import Target

_AMBIGUOUS = Refusal("its name fits several weights of this model")

Groups = dict[str, dict[FileModule, list[Match]]]
"""What was removed before the names -> the places of the modules that share it."""


def resolve(adapter: Adapter, target: Target, expert: str = "") -> tuple[list[Match], Report]:
    """The place of every module of ``adapter`` in ``target``.

    expert: "high" or "low", of an adapter for a model of two experts; "": the one that the target is, if it tells

    A module's name is looked up among the target's own names and their aliases, and accepted only if the update has
    the shape of the weight. Names that are known but for a prefix before a group of them, or that mix two namings, are
    accepted if each module then finds exactly one weight that no other has. If no name is known at all, the file's
    names are tried with a common prefix removed or added: accepted only if every module then finds a weight of its own,
    and reported as a guess.

    Returns (a match for each weight that a module goes to, the report on all modules of the file, but for those of an
    expert that was not chosen). Raises LoKrValueError if ``expert`` is an unknown word, or the file does not have it.

    >>> adapter = Adapter({"a": LoKrWeights(Factor(torch.ones(2, 2)), Factor(torch.ones(3, 3)))})
    >>> matches, report = resolve(adapter, Target({"a.weight": (6, 6)}))
    >>> matches[0].weight, report.headline
    ('a.weight', '1 of 1 modules applied')
    """
    report = Report(adapter, architectures=target.architectures)
    adapter = in_named_order(_of_expert(adapter, target, expert, report), target.has_reversed_halves)
    adapter = with_meant_names(adapter, target.meant)
    updates = foreign_updates(adapter)
    others = adapter.foreign.modules
    modules = [FileModule(module, adapter.names[module], {"weight": w}) for module, w in adapter.items()]
    modules += [FileModule(m, others[m].name, parts, others[m].kind) for m, parts in updates.items()]
    undecided = len(adapter.experts) == 2 and not target.experts
    places = {one: _place(one, target, undecided) for one in modules}
    _place_unknown(places, adapter, target, report)
    if not undecided:
        _place_by_endings(places, adapter, target, report)
    found = {(one.module, one.kind): each for one, each in places.items()}
    matches: list[Match] = []
    for module, weights in adapter.items():
        matches += _reported(report, module, found[module, "LoKr"], note="; ".join(weights.notes))
    for module, each in others.items():
        unknown = Refusal(f"{each.kind} is not LoKr, and not applied by this library")
        matches += _reported(report, module, found.get((module, each.kind), unknown), kind=each.kind)
    if report.refused:
        report.mismatch = mismatch(adapter, target.architectures)
        report.notes += report.mismatch
    return matches, report


def _of_expert(adapter: Adapter, target: Target, expert: str, report: Report) -> Adapter:
    """``adapter`` without the modules of the expert that was not chosen, if the caller or the target tells."""
    found = adapter.experts
    here = target.experts if len(target.experts) == 1 else set()
    if expert:
        chosen = adapter.for_expert(expert)
    elif len(found) == 2 and here:
        chosen = adapter.for_expert(next(iter(here)), ", since the model's name tells that it is that one")
    else:
        if len(found) == 1 and here and here.isdisjoint(found):
            report.notes.append(
                f"the file is for the {found[0]} noise expert; the model's name says {here.pop()} noise"
            )
        return adapter
    report.notes += [note for note in chosen.notes if note not in adapter.notes]
    return chosen


def _place(one: FileModule, target: Target, undecided: bool) -> Place:
    """The module's place by the names that the target and its tables know.

    undecided: whether the file is for two experts, and nothing tells which one the target is
    """
    name = one.name
    if not target.has(name.component):
        what = "text encoder" if name.component.startswith("te") else "diffusion model"
        return Refusal(f"it belongs to a {what}, which is not connected here")
    if undecided and name.expert:  # but a model that is made of both has names of its own for each
        found = place(one, target.candidates(replace(name, path=own_path(name))), target.shape_of)
        return Refusal(TWO_EXPERTS) if isinstance(found, Refusal) else found
    return place(one, target.candidates(name), target.shape_of)


def _place_unknown(places: dict[FileModule, Place], adapter: Adapter, target: Target, report: Report) -> None:
    """Place modules of unknown names, unless the file has the names of another architecture and does not fit as a
    whole: then they are that architecture's, and any place is chance."""
    known = dict(places)
    notes = _place_by_parts(places, target)
    refused = any(isinstance(found, Refusal) for one, found in places.items() if one.kind == "LoKr")
    if places != known and refused and looks_like(adapter, target.architectures):
        places.update(known)
    else:
        report.notes += notes


def _place_by_endings(places: dict[FileModule, Place], adapter: Adapter, target: Target, report: Report) -> None:
    """Guess the places of all LoKr modules if none has one."""
    lokr = [one for one in places if one.kind == "LoKr"]
    if all(isinstance(places[one], Refusal) for one in lokr):
        guessed = guess(adapter, target.shapes) or {}
        for one in lokr if guessed else ():
            to = guessed[one.module]
            places[one] = [match(one.module, to, Slot(to), adapter[one.module], target.shape_of)]
        if guessed:
            report.notes.append(
                "the names of this file are not known: its modules were matched by their endings, a guess"
            )


def _reported(report: Report, module: str, found: Place, **about: str) -> list[Match]:
    """The module's matches, none if it was refused, after adding it to the report."""
    if isinstance(found, Refusal):
        report.add(module, REFUSED, reason=found.reason, detail=found.detail, **about)
        return []
    report.add(module, APPLIED, where=", ".join(dict.fromkeys(match.weight for match in found)), **about)
    return found


def foreign_places(adapter: Adapter, target: Target) -> dict[str, Slot]:
    """Where the foreign modules of a file belong by name alone, for a host's own loader: module -> slot."""
    places: dict[str, Slot] = {}
    for module, each in with_meant_names(adapter, target.meant).foreign.modules.items():
        slot = next((slots[0] for _, slots in target.candidates(each.name) if len(slots) == 1), None)
        if slot is not None:
            places[module] = slot
    return places


# Names that a target does not know as they are: two namings in one name, or a wrapper's name before a known one. Query,
# key, value and output have one shape, so a shape that fits proves nothing: a place is accepted only if it is the only
# one that the name allows, and no other module of the file has it.


def _place_by_parts(places: dict[FileModule, Place], target: Target) -> list[str]:
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
            placed = place(one, [candidate], target.shape_of)
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
    taken = [rows for one, found in places.items() if not isinstance(found, Refusal) for rows in rows_of(one, found)]
    new = [rows for group in groups.values() for one, found in group.items() for rows in rows_of(one, found)]
    shared = shared_rows([*taken, *new])
    for prefix, group in groups.items():
        twice = {one: other for one in group if (other := shared.get(one.module))}
        for one, found in group.items():
            if not twice:
                places[one] = found
            elif one in twice:
                places[one] = Refusal("another module of the file goes to the same weight", twice[one])
            else:
                places[one] = Refusal(f"a module that also begins with “{prefix}” has a weight that another has too")
