"""Matching the modules of an adapter to the weights of a target: by name, checked by shape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..adapter import Adapter, LoKrWeights, ModuleName
from ..errors import LoKrShapeError
from ..names import Slot, guesses
from ._foreign import foreign_updates
from ._report import APPLIED, REFUSED, Report
from ._target import Target, weight_name


@dataclass(frozen=True, eq=False)
class Match:
    """One module of a file and the weight, or rows of a weight, that its update goes to.

    module: the module's name in the file; name: the target's
    slot: where the update goes
    pieces: (row of the weight, update) pairs that make up the change; each update is as tall as its rows
    kind: what the module is in the file, "LoKr", "LoRA", ...
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
        """Add strength · change to ``weight`` in place. ``base``: its unpatched numbers, for DoRA; None: its own."""
        if weight.ndim == 1:  # a bias or a norm: updates have two axes
            weight, base = weight.unsqueeze(1), None if base is None else base.unsqueeze(1)
        for start, update in self.pieces:
            rows = (0, start, update.shape[0])
            update.add_to_(weight.narrow(*rows), strength, None if base is None else base.narrow(*rows))


@dataclass(frozen=True)
class Refusal:
    """Why a module has no place: ``reason`` is the same for all modules that fail alike, ``detail`` its own."""

    reason: str
    detail: str = ""


def resolve(adapter: Adapter, target: Target) -> tuple[list[Match], Report]:
    """The place of every module of ``adapter`` in ``target``.

    A module's name is looked up among the target's own names and their aliases, and accepted only if the update has
    the shape of the weight. If no name is known at all, the file's names are tried with a common prefix removed or
    added: accepted only if every module then finds a weight of its own, and reported as a guess.

    Returns (a match for each weight that a module goes to, the report on all modules).

    >>> adapter = Adapter({"a": LoKrWeights(Factor(torch.ones(2, 2)), Factor(torch.ones(3, 3)))})
    >>> matches, report = resolve(adapter, Target({"a.weight": (6, 6)}))
    >>> matches[0].weight, report.headline
    ('a.weight', '1 of 1 modules applied')
    """
    report = Report(adapter)
    places = {module: _place(module, {"weight": w}, adapter.names[module], target) for module, w in adapter.items()}
    if all(isinstance(place, Refusal) for place in places.values()):
        guessed = _guess(adapter, target)
        if guessed:
            places = {module: [match] for module, match in guessed.items()}
            report.notes.append(
                "the names of this file are not known: its modules were matched by their endings, a guess"
            )
    matches: list[Match] = []
    for module, place in places.items():
        matches += _reported(report, module, place, note="; ".join(adapter[module].notes))
    matches += _place_foreign(adapter, target, report)
    if report.refused:
        report.mismatch = _mismatch(adapter, target)
        report.notes += report.mismatch
    return matches, report


def _reported(report: Report, module: str, place: list[Match] | Refusal, **about: str) -> list[Match]:
    """The module's matches, none if it was refused, after adding it to the report."""
    if isinstance(place, Refusal):
        report.add(module, REFUSED, reason=place.reason, detail=place.detail, **about)
        return []
    report.add(module, APPLIED, where=", ".join(dict.fromkeys(match.weight for match in place)), **about)
    return place


def _place_foreign(adapter: Adapter, target: Target, report: Report) -> list[Match]:
    """The matches of foreign modules that have the form of a LoKr; all foreign modules are added to the report."""
    updates = foreign_updates(adapter)
    matches: list[Match] = []
    for module, each in adapter.foreign.modules.items():
        place: list[Match] | Refusal = Refusal(f"{each.kind} is not LoKr, and not applied by this library")
        if module in updates:
            place = _place(module, updates[module], each.name, target, each.kind)
        matches += _reported(report, module, place, kind=each.kind)
    return matches


def foreign_places(adapter: Adapter, target: Target) -> dict[str, Slot]:
    """Where the foreign modules of a file belong by name alone, for a host's own loader: module -> slot."""
    places: dict[str, Slot] = {}
    for module, each in adapter.foreign.modules.items():
        slot = next((slots[0] for _, slots in target.candidates(each.name) if len(slots) == 1), None)
        if slot is not None:
            places[module] = slot
    return places


def _place(
    module: str, updates: Mapping[str, LoKrWeights], name: ModuleName, target: Target, kind: str = "LoKr"
) -> list[Match] | Refusal:
    """The matches of a module's updates ("weight" or "bias" -> update), which are applied together or not at all."""
    if not target.has(name.component):
        what = "text encoder" if name.component.startswith("te") else "diffusion model"
        return Refusal(f"it belongs to a {what}, which is not connected here")
    matches: list[Match] = []
    for parameter, weights in updates.items():
        refusal = Refusal("no such weight in this model")
        for known, slots in target.candidates(name):
            moved = [slot.of(parameter) for slot in slots]
            try:
                matches += [_match(module, known, slot, weights, target, kind) for slot in moved]
                break
            except LoKrShapeError as error:
                refusal = Refusal(error.problem, f"expected {error.expected}, found {error.found}")
        else:
            return refusal
    return matches


def _match(module: str, known: str, slot: Slot, weights: LoKrWeights, target: Target, kind: str = "LoKr") -> Match:
    """``weights`` fitted to the rows that ``slot`` names. Raises LoKrShapeError if they do not have that shape."""
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
        pieces = list(whole.rows(first, length))
    else:
        fitted = weights.fit((out, *rest))
        pieces = list(fitted.swapped_halves()) if slot.swap else [(0, fitted)]
    return Match(module, known, slot, tuple((start + offset, update) for offset, update in pieces), kind)


def _guess(adapter: Adapter, target: Target) -> dict[str, Match] | None:
    """Every module matched by its ending, None if that fails: one prefix is removed from, or added to, all names."""
    names = {module: adapter.names[module] for module in adapter}
    sign = "_" if any(name.flattened for name in names.values()) else "."
    modules = [name.removesuffix(".weight") for name in target.shapes if name.endswith(".weight")]
    known = {module.replace(".", sign): module for module in modules}
    if not names or len(names) > len(known):
        return None
    paths = {module: name.path.replace(".", sign) for module, name in names.items()}
    for cut, put in _prefixes(next(iter(paths.values())), known, sign):
        matches: dict[str, Match] = {}
        for module, path in paths.items():
            place = known.get(put + path[len(cut) :]) if path.startswith(cut) else None
            if place is None or not adapter[module].fits(target.shapes[f"{place}.weight"]):
                break
            matches[module] = _match(module, place, Slot(place), adapter[module], target)
        else:
            if len({match.weight for match in matches.values()}) == len(matches):
                return matches
    return None


def _prefixes(path: str, known: Iterable[str], sign: str) -> Iterator[tuple[str, str]]:
    """(prefix to remove from ``path``, prefix to add to the rest) that lead to a known name, the shortest cut first."""
    pieces = path.split(sign)
    for count in range(len(pieces)):
        rest = sign.join(pieces[count:])
        cut = path[: len(path) - len(rest)]
        for name in known:
            if name == rest or name.endswith(sign + rest):
                yield cut, name[: len(name) - len(rest)]


def _mismatch(adapter: Adapter, target: Target) -> list[str]:
    """A note on what a person may have confused, if the adapter looks like one for another model."""
    if not target.architectures:
        return []
    of_denoiser = {n.path: adapter[module].shape for module, n in adapter.names.items() if n.component in ("", "unet")}
    stated = adapter.metadata.get("ss_base_model_version") or adapter.metadata.get("modelspec.architecture")
    guessed = guesses(of_denoiser)
    here = " with ".join(target.architectures)
    if guessed and not set(guessed).intersection(target.architectures):
        return [f"this looks like an adapter for {guessed[0]}; the model is {here}"]
    return [f"the file names {stated} as its base model; the model is {here}"] if stated else []
