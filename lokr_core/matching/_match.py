"""Matching the modules of an adapter to the weights of a target: by name, checked by shape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from ..adapter import Adapter, LoKrWeights, ModuleName
from ..errors import LoKrShapeError
from ..names import Slot, guesses
from ._foreign import other_updates
from ._report import APPLIED, REFUSED, Report
from ._target import Target, weight_name


@dataclass(frozen=True, eq=False)
class Match:
    """One module of a file and the weight, or rows of a weight, that its update goes to.

    ``name`` is the target's name for the module. ``pieces``: (row of the weight, update) pairs that make up the
    change, each update as tall as the rows it goes to. ``kind`` is the report's: what the module is in the file.
    """

    module: str
    name: str
    slot: Slot
    pieces: tuple[tuple[int, LoKrWeights], ...]
    kind: str = "LoKr"

    @property
    def weight(self) -> str:
        """The target's name of the weight."""
        return weight_name(self.slot)

    @property
    def needs_base(self) -> bool:
        """Whether the change depends on the weight's unpatched numbers (DoRA)."""
        return any(update.dora_axis for _, update in self.pieces)

    def add_to_(self, weight: Tensor, strength: float, base: Tensor | None = None) -> None:
        """Add the change to ``weight``, whose unpatched numbers are ``base`` (its own where that is None)."""
        if weight.ndim == 1:  # a bias or a norm: updates have two axes
            weight, base = weight.unsqueeze(1), None if base is None else base.unsqueeze(1)
        for start, update in self.pieces:
            rows = (0, start, update.shape[0])
            update.add_to_(weight.narrow(*rows), strength, None if base is None else base.narrow(*rows))


def resolve(adapter: Adapter, target: Target) -> tuple[list[Match], Report]:
    """Every module of ``adapter`` that has a place in ``target``, and the report on all of them.

    A module's name is looked up among the target's own names and those of the name tables, and accepted only where
    the update has the shape of the weight. Where no name at all is known, the file's names are tried below or without
    a common prefix: accepted only if every module then finds a weight of its own, and reported as guessed.
    """
    report = Report(adapter)
    found = {module: _place(module, weights, adapter.names[module], target) for module, weights in adapter.items()}
    if not any(matches for matches, _, _ in found.values()):
        guessed = _guess(adapter, target)
        if guessed:
            found = {module: ([match], "", "") for module, match in guessed.items()}
            report.notes.append(
                "the names of this file are not known: its modules were matched by their endings, a guess"
            )
    matches: list[Match] = []
    for module, (placed, reason, detail) in found.items():
        matches += placed
        note = "; ".join(adapter[module].notes)
        where = ", ".join(dict.fromkeys(match.weight for match in placed))
        report.add(module, APPLIED if placed else REFUSED, where=where, reason=reason, note=note, detail=detail)
    matches += _place_others(adapter, target, report)
    if report.refused:
        report.mismatch = _mismatch(adapter, target)
        report.notes += report.mismatch
    return matches, report


def _place_others(adapter: Adapter, target: Target, report: Report) -> list[Match]:
    """The matches of what is no LoKr but an update of the same form, reported like the rest."""
    updates = other_updates(adapter)
    matches: list[Match] = []
    for module, kind in adapter.other_kinds.items():
        if module not in updates:
            report.add(module, REFUSED, kind=kind, reason=f"{kind} is not LoKr, and not applied by this library")
            continue
        name = adapter.other_names[module]
        placed = [_place(module, weights, name, target, kind, on) for on, weights in updates[module].items()]
        missing = next(((reason, detail) for found, reason, detail in placed if not found), None)
        if missing:  # half a module's change is another change
            report.add(module, REFUSED, kind=kind, reason=missing[0], detail=missing[1])
            continue
        found = [match for matches_of_one, _, _ in placed for match in matches_of_one]
        report.add(module, APPLIED, kind=kind, where=", ".join(dict.fromkeys(match.weight for match in found)))
        matches += found
    return matches


def other_places(adapter: Adapter, target: Target) -> dict[str, Slot]:
    """Where the modules of a file that are no LoKr belong, by name alone: module -> slot, for a host's own loader."""
    places = {}
    for module, name in adapter.other_names.items():
        for _, slots in target.candidates(name):
            if len(slots) == 1:
                places[module] = slots[0]
                break
    return places


def _place(
    module: str, weights: LoKrWeights, name: ModuleName, target: Target, kind: str = "LoKr", on: str = "weight"
) -> tuple[list[Match], str, str]:
    """(the matches of one module's weight or bias, or none, why, and with which shapes)."""
    if not target.has(name.component):
        what = "text encoder" if name.component.startswith("te") else "diffusion model"
        return [], f"it belongs to a {what}, which is not connected here", ""
    reason, detail = "no such weight in this model", ""
    for known, slots in target.candidates(name):
        try:
            slots = [replace(slot, parameter=slot.parameter.replace("weight", on)) for slot in slots]
            return [replace(_match(module, known, slot, weights, target), kind=kind) for slot in slots], "", ""
        except LoKrShapeError as error:
            reason, detail = error.problem, f"expected {error.expected}, found {error.found}"
    return [], reason, detail


def _match(module: str, known: str, slot: Slot, weights: LoKrWeights, target: Target) -> Match:
    """``weights`` fitted to what ``slot`` names, or LoKrShapeError."""
    out, *rest = target.shape_of(slot)
    start = slot.rows[0] if slot.rows else 0
    if slot.source_rows is not None:
        whole = weights.fit((weights.shape[0], *rest))
        first, length = slot.source_rows
        if length != out or first + length > whole.shape[0]:
            raise LoKrShapeError(
                "The update's rows do not fit the weight",
                expected=f"rows {first} to {first + out}",
                found=f"{whole.shape[0]} rows",
            )
        pieces = [(start + offset, update) for offset, update in whole.rows(first, length)]
    elif slot.swap:
        pieces = [(start + offset, update) for offset, update in weights.fit((out, *rest)).swapped_halves()]
    else:
        pieces = [(start, weights.fit((out, *rest)))]
    return Match(module, known, slot, tuple(pieces))


def _guess(adapter: Adapter, target: Target) -> dict[str, Match] | None:
    """Every module matched by its ending, or None: one prefix is taken away from, or put before, all names alike."""
    names = {module: adapter.names[module] for module in adapter}
    flattened = any(name.flattened for name in names.values())
    sign = "_" if flattened else "."
    weights = {name[: -len(".weight")]: name for name in target.shapes if name.endswith(".weight")}
    known = {module.replace(".", sign): module for module in weights}
    if not names or len(names) > len(known):
        return None
    paths = {module: name.path.replace(".", sign) for module, name in names.items()}
    for cut, put in _prefixes(next(iter(paths.values())), known, sign):
        matches: dict[str, Match] = {}
        for module, path in paths.items():
            place = known.get(put + path[len(cut) :]) if path.startswith(cut) else None
            if place is None or not adapter[module].fits(target.shapes[weights[place]]):
                break
            matches[module] = _match(module, place, Slot(place), adapter[module], target)
        else:
            if len({match.weight for match in matches.values()}) == len(matches):
                return matches
    return None


def _prefixes(path: str, known: Iterable[str], sign: str) -> Iterator[tuple[str, str]]:
    """(prefix to cut off ``path``, prefix to put before the rest) that lead to a known name, the shortest cut first."""
    pieces = path.split(sign)
    for count in range(len(pieces)):
        rest = sign.join(pieces[count:])
        cut = path[: len(path) - len(rest)]
        for name in known:
            if name == rest or name.endswith(sign + rest):
                yield cut, name[: len(name) - len(rest)]


def _mismatch(adapter: Adapter, target: Target) -> list[str]:
    """What a person may have mixed up, where something did not match."""
    if not target.architectures:
        return []
    of_denoiser = {n.path: adapter[module].shape for module, n in adapter.names.items() if n.component in ("", "unet")}
    said = adapter.metadata.get("ss_base_model_version") or adapter.metadata.get("modelspec.architecture")
    guessed = guesses(of_denoiser)
    here = " with ".join(target.architectures)
    if guessed and not set(guessed).intersection(target.architectures):
        return [f"this looks like an adapter for {guessed[0]}; the model is {here}"]
    return [f"the file names {said} as its base model; the model is {here}"] if said else []
