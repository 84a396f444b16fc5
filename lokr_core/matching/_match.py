"""One module of a file at the weights of a target that a name leads to, if the shapes fit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from ..adapter import LoKrWeights, ModuleName
from ..errors import LoKrShapeError
from ..names import Slot, weight_name


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

    def running(self, fused: Mapping[str, tuple[str, int]]) -> Match:
        """This match at the module that runs: of a fused projection, at its rows of the fused module.

        fused: a projection's module -> (the module that runs in its place, its first row there)
        """
        if self.slot.module not in fused:
            return self
        module, start = fused[self.slot.module]
        pieces = tuple((start + row, update) for row, update in self.pieces)
        first, count = self.slot.rows or (0, sum(update.shape[0] for _, update in self.pieces))
        return replace(self, slot=replace(self.slot, module=module, rows=(start + first, count)), pieces=pieces)

    def add_to_(self, weight: Tensor, strength: float, base: Tensor | None = None) -> None:
        """Add strength · change to ``weight`` in place. ``base``: its unpatched numbers, for DoRA; None: its own."""
        if weight.ndim == 1:  # a bias or a norm: updates have two axes
            weight, base = weight.unsqueeze(1), None if base is None else base.unsqueeze(1)
        for start, update in self.pieces:
            rows = (0, start, update.shape[0])
            update.add_to_(weight.narrow(*rows), strength, None if base is None else base.narrow(*rows))


def left_out(matches: Iterable[Match], components: Collection[str] | None) -> dict[str, str]:
    """The modules of a file that go to other parts of a pipeline than ``components``, each with the reason. None: all
    parts take the adapter.

    >>> left_out([Match("a", "a", Slot("unet.conv_in"), ())], ["text_encoder"])
    {'a': 'its part of the pipeline is not among the components'}
    """
    if components is None:
        return {}
    reason = "its part of the pipeline is not among the components"
    parts = {match.module: match.slot.module.partition(".")[0] for match in matches}
    return {module: reason for module, part in parts.items() if part not in components}


@dataclass(frozen=True)
class Refusal:
    """Why a module has no place: ``reason`` is the same for all modules that fail alike, ``detail`` its own."""

    reason: str
    detail: str = ""


@dataclass(frozen=True, eq=False)
class FileModule:
    """A module of a file whose updates have the form of a LoKr.

    updates: the parameter ("weight" or "bias") -> its update; all are applied, or none; kind: see ``Match``
    """

    module: str
    name: ModuleName
    updates: Mapping[str, LoKrWeights]
    kind: str = "LoKr"


Place = list[Match] | Refusal
"""Where a module goes, or why nowhere."""

ShapeOf = Callable[[Slot], tuple[int, ...]]
"""The shape of the rows that a slot names, see ``Target.shape_of``."""

UNKNOWN = Refusal("no such weight in this model")


def place(one: FileModule, candidates: Iterable[tuple[str, tuple[Slot, ...]]], shape_of: ShapeOf) -> Place:
    """The matches of a module at the first of ``candidates`` that has its shape: (a name of the target, its slots)."""
    known = list(candidates)
    matches: list[Match] = []
    for parameter, weights in one.updates.items():
        refusal = UNKNOWN
        for name, slots in known:
            try:
                matches += [match(one.module, name, s.of(parameter), weights, shape_of, one.kind) for s in slots]
                break
            except LoKrShapeError as error:
                refusal = Refusal(error.problem, f"expected {error.expected}, found {error.found}")
        else:
            return refusal
    return matches


def match(module: str, known: str, slot: Slot, weights: LoKrWeights, shape_of: ShapeOf, kind: str = "LoKr") -> Match:
    """``weights`` fitted to the rows that ``slot`` names. Raises LoKrShapeError if they do not have that shape."""
    out, *rest = shape_of(slot)
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


class Rows(NamedTuple):
    """Rows of a weight, and the module that goes there."""

    weight: str
    start: int
    stop: int
    module: str


def rows_of(one: FileModule, found: Iterable[Match]) -> Iterator[Rows]:
    for match in found:
        for start, update in match.pieces:
            yield Rows(match.weight, start, start + update.shape[0], one.module)


def shared_rows(every: Iterable[Rows]) -> dict[str, str]:
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
