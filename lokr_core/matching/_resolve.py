"""Where every module of an adapter belongs in a target: by name, checked by shape, and reported."""

from __future__ import annotations

from dataclasses import replace

from ..adapter import Adapter
from ..modules import own_path
from ..names import Slot, base_model_of, guesses
from ._foreign import foreign_updates
from ._guess import guess
from ._match import FileModule, Match, Place, Refusal, place
from ._report import APPLIED, REFUSED, TWO_EXPERTS, Report
from ._target import Target
from ._unknown import place_unknown


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
    adapter = _of_expert(adapter, target, expert, report)
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
        report.mismatch = _mismatch(adapter, target)
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
        found = place(one, target.candidates(replace(name, path=own_path(name))), target)
        return Refusal(TWO_EXPERTS) if isinstance(found, Refusal) else found
    return place(one, target.candidates(name), target)


def _place_unknown(places: dict[FileModule, Place], adapter: Adapter, target: Target, report: Report) -> None:
    """Place modules of unknown names, unless the file has the names of another architecture and does not fit as a
    whole: then they are that architecture's, and any place is chance."""
    known = dict(places)
    notes = place_unknown(places, target)
    refused = any(isinstance(found, Refusal) for one, found in places.items() if one.kind == "LoKr")
    if places != known and refused and _looks_like(adapter, target):
        places.update(known)
    else:
        report.notes += notes


def _place_by_endings(places: dict[FileModule, Place], adapter: Adapter, target: Target, report: Report) -> None:
    """Guess the places of all LoKr modules if none has one."""
    lokr = [one for one in places if one.kind == "LoKr"]
    if all(isinstance(places[one], Refusal) for one in lokr):
        guessed = guess(adapter, target) or {}
        places.update({one: [guessed[one.module]] for one in lokr if guessed})
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
    for module, each in adapter.foreign.modules.items():
        slot = next((slots[0] for _, slots in target.candidates(each.name) if len(slots) == 1), None)
        if slot is not None:
            places[module] = slot
    return places


def _mismatch(adapter: Adapter, target: Target) -> list[str]:
    """A note on what a person may have confused, if the adapter looks like one for another model."""
    if not target.architectures:
        return []
    stated = adapter.metadata.get("ss_base_model_version") or adapter.metadata.get("modelspec.architecture")
    other, here = _looks_like(adapter, target), " with ".join(target.architectures)
    if other:
        return [f"this looks like an adapter for {other}; the model is {here}"]
    return [f"the file names {stated} as its base model; the model is {here}"] if stated else []


def _looks_like(adapter: Adapter, target: Target) -> str:
    """The architecture that the file's names fit best, "" if the target is one that they fit as well, or unknown."""
    shapes = {module: weights.shape for module, weights in adapter.items()}
    guessed = guesses({n.path: shapes[m] for m, n in adapter.names.items() if n.component in ("", "unet")})
    if not guessed or not target.architectures or set(guessed).intersection(target.architectures):
        return ""
    return base_model_of(adapter.names, shapes, adapter.metadata).title
