"""Matching the modules of an adapter to the weights of a target: by name, checked by shape."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from .adapter import Adapter, LoKrWeights, ModuleName
from .errors import LoKrShapeError
from .names import Slot
from .report import APPLIED, REFUSED, Report

__all__ = ["Match", "Target", "resolve"]


def weight_name(slot: Slot) -> str:
    """The name of the parameter that a slot is in."""
    return f"{slot.module}.{slot.parameter}" if slot.module else slot.parameter


@dataclass(eq=False)
class Target:
    """What an adapter is for: weight name -> shape, and further names by which those weights are known."""

    shapes: Mapping[str, tuple[int, ...]]
    aliases: Mapping[str, tuple[Slot, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Target:
        """A model's parameters, or a state dict."""
        return cls({name: tuple(tensor.shape) for name, tensor in tensors.items() if tensor.ndim > 1})

    def __post_init__(self):
        self._names: dict[str, tuple[Slot, ...]] = dict(self.aliases)
        for name in self.shapes:
            module, _, parameter = name.rpartition(".")
            if parameter == "weight":
                self._names[module] = (Slot(module),)
        self._flat: dict[str, list[str]] = defaultdict(list)
        for name in self._names:
            self._flat[name.replace(".", "_")].append(name)

    def candidates(self, name: ModuleName) -> Iterable[tuple[str, tuple[Slot, ...]]]:
        """(a name the target knows, where it points to) for every way to read a module's name, the likeliest first."""
        seen = dict.fromkeys((name.full, name.path))
        for path in (name.path, name.full):
            seen.update(dict.fromkeys(self._flat.get(path.replace(".", "_"), ()) if name.flattened else ()))
        for known in seen:
            if known in self._names:
                yield known, self._names[known]

    def shape_of(self, slot: Slot) -> tuple[int, ...]:
        """Shape of the rows that ``slot`` names."""
        out, *rest = self.shapes[weight_name(slot)]
        return (slot.rows[1] if slot.rows else out, *rest)


@dataclass(frozen=True, eq=False)
class Match:
    """One update and the weight, or rows of a weight, that it goes to."""

    module: str
    name: str
    slot: Slot
    weights: LoKrWeights

    @property
    def weight(self) -> str:
        """The target's name of the weight."""
        return weight_name(self.slot)

    def add_to_(self, weight: Tensor, strength: float, base: Tensor) -> None:
        """Add the update to its rows of ``weight``, whose unpatched numbers are ``base``."""
        if self.slot.rows:
            weight, base = weight.narrow(0, *self.slot.rows), base.narrow(0, *self.slot.rows)
        self.weights.add_to_(weight, strength, base)


def resolve(adapter: Adapter, target: Target) -> tuple[list[Match], Report]:
    """Every module of ``adapter`` that has a place in ``target``, and the report on all of them."""
    matches: list[Match] = []
    report = Report(adapter)
    for module, weights in adapter.items():
        found, reason = _place(module, weights, adapter.names[module], target)
        matches += found
        note = "; ".join(weights.notes)
        if found:
            report.add(module, APPLIED, where=", ".join(m.weight for m in found), note=note)
        else:
            report.add(module, REFUSED, reason=reason, note=note)
    for module, kind in adapter.other_kinds.items():
        report.add(module, REFUSED, kind=kind, reason=f"{kind} is not LoKr")
    return matches, report


def _place(module: str, weights: LoKrWeights, name: ModuleName, target: Target) -> tuple[list[Match], str]:
    """The matches of one module, or none and the reason."""
    reason = "no such weight in this model"
    for known, slots in target.candidates(name):
        try:
            found = [Match(module, known, slot, weights.fit(target.shape_of(slot))) for slot in slots]
        except LoKrShapeError as error:
            reason = f"{error.problem} (expected {error.expected}, found {error.found})"
            continue
        return found, ""
    return [], reason
