"""An adapter in memory: module name -> LoKrWeights, and what else its file holds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from . import kronecker
from .errors import LoKrShapeError, LoKrValueError
from .kronecker import Factor
from .modules import Foreign, ForeignModule, ModuleName, check_held, checked_expert, experts_among, two_experts

__all__ = ["Adapter", "Foreign", "ForeignModule", "LoKrWeights", "ModuleName"]


def check_strength(strength: float) -> float:
    """``strength`` as a float. Raises LoKrValueError if it is not a finite number."""
    try:
        value = float(strength)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise LoKrValueError(
            "A strength must be a finite number", found=repr(strength), hint="use a number such as 0.8"
        )
    return value


@dataclass(frozen=True, eq=False)
class LoKrWeights:
    """The update of one module: ΔW = scaling · (w1 ⊗ w2), with DoRA's magnitude if it has one.

    w1, w2: (l, m) and (k, n, *kernel), for a weight (l·k, m·n, *kernel)
    scaling: the factor that the trainer multiplied by; alpha: as stored in the file, None if it is not
    dora_scale: DoRA's magnitude, (out, 1, ...) or (1, in, ...), or LoKrShapeError; None without DoRA
    notes: what was assumed in reading the module
    dora_norm: the norms that dora_scale stands over, (out,), where the file gives them; None: those of W + ΔW

    >>> weights = LoKrWeights(Factor(torch.ones(2, 3)), Factor(a=torch.ones(4, 2), b=torch.ones(2, 5)), scaling=0.5)
    >>> weights.shape, weights.rank, weights.delta().shape
    ((8, 15), 2, torch.Size([8, 15]))
    """

    w1: Factor
    w2: Factor
    scaling: float = 1.0
    dora_scale: Tensor | None = None
    alpha: float | None = None
    notes: tuple[str, ...] = ()
    dora_norm: Tensor | None = None

    def __post_init__(self):
        if self.dora_scale is not None and self.dora_axis is None:
            out, columns, *_ = self.shape
            raise LoKrShapeError(
                "dora_scale fits neither axis of the weight",
                expected=f"({out}, 1, ...) or (1, {columns}, ...)",
                found=tuple(self.dora_scale.shape),
            )
        if self.dora_norm is not None and (self.dora_axis != "out" or self.dora_norm.numel() != self.shape[0]):
            found = f"initial_norm {tuple(self.dora_norm.shape)}, DoRA on axis {self.dora_axis}"
            raise LoKrShapeError("dora_scale's norms do not fit it", expected=f"{self.shape[0]} norms", found=found)

    @property
    def shape(self) -> tuple[int, ...]:
        """(out, in, *kernel); a kernel that the file flattened is part of ``in`` until ``fit`` knows the weight."""
        (l, m), (k, n, *kernel) = self.w1.shape[:2], self.w2.shape
        return (l * k, m * n, *kernel)

    @property
    def rank(self) -> int | None:
        """r of the low-rank factor (w2's if both are), None if both are whole."""
        return kronecker.rank_of(self.w1, self.w2)

    @property
    def is_tucker(self) -> bool:
        return self.w2.t is not None

    @property
    def dora_axis(self) -> str | None:
        """ "out" or "in", the axis whose norms ``dora_scale`` replaces; None without DoRA.

        "out", LyCORIS' default, if the shape fits both.
        """
        if self.dora_scale is None:
            return None
        shape, numel = tuple(self.dora_scale.shape), self.dora_scale.numel()
        out, columns, *_ = self.shape
        if numel == out and shape[:1] in ((), (out,)):
            return "out"
        # Before ``fit``, `columns` may be in · kernel, so accept a divisor of it.
        fits_columns = numel == columns if len(shape) < 2 else shape[:2] == (1, numel) and columns % numel == 0
        return "in" if fits_columns else None

    @property
    def numel(self) -> int:
        """How many numbers are stored, DoRA's included."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The stored tensors by LyCORIS' names. As there, a low-rank factor has its kernel in the columns of b."""
        w1, w2 = (f if f.b is None or f.t is not None else replace(f, b=f.b.flatten(1)) for f in (self.w1, self.w2))
        dora = {"dora_scale": self.dora_scale, "initial_norm": self.dora_norm}
        given = {name: tensor for name, tensor in dora.items() if tensor is not None}
        return {**w1.to_tensors("lokr_w1"), **w2.to_tensors("lokr_w2"), **given}

    def with_alpha(self) -> LoKrWeights:
        """The same update with the alpha that gives its scaling, which is None if both factors are whole."""
        return replace(self, alpha=None if self.rank is None else self.scaling * self.rank)

    def fit(self, shape: tuple[int, ...]) -> LoKrWeights:
        """The same update with the axes of a weight of ``shape`` (out, in, *kernel), or LoKrShapeError."""
        w1, w2 = kronecker.fit(self.w1, self.w2, tuple(shape))
        fitted = replace(self, w1=w1, w2=w2)
        if self.dora_scale is not None and self.dora_scale.numel() != shape[0 if fitted.dora_axis == "out" else 1]:
            raise LoKrShapeError(
                f"dora_scale does not fit the weight's {fitted.dora_axis}put axis",
                expected=f"weight {tuple(shape)}",
                found=f"dora_scale {tuple(self.dora_scale.shape)}",
            )
        return fitted

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether ``fit`` succeeds."""
        try:
            self.fit(shape)
        except LoKrShapeError:
            return False
        return True

    def delta(self, dtype: torch.dtype | None = None) -> Tensor:
        """scaling · (w1 ⊗ w2), built whole: (out, in, *kernel). For tests and small weights.

        Computed in ``dtype``, by default fp32, or fp64 if a factor is. DoRA is not in it: it needs the base weight.
        """
        if dtype is None:
            wide = any(t.dtype == torch.float64 for f in (self.w1, self.w2) for t in f.tensors.values())
            dtype = torch.float64 if wide else torch.float32
        return kronecker.materialize(self.w1, self.w2, dtype) * self.scaling

    def add_to_(self, weight: Tensor, strength: float = 1.0, base: Tensor | None = None) -> Tensor:
        """Add this update to ``weight`` (out, in, *kernel) in place, each number rounded once; returns ``weight``.

        Without DoRA: weight += strength · ΔW. With DoRA: weight += strength · (W' - W), where W is ``base`` or, if
        None, ``weight`` itself. Raises LoKrShapeError if the shapes differ.
        """
        strength = check_strength(strength)
        if strength == 0:
            return weight
        if self.dora_scale is None:
            return kronecker.add_kron_(weight, self.w1, self.w2, self.scaling * strength)
        axis = self.dora_axis or "out"
        dora = self.dora_scale, axis, strength, base, self.dora_norm
        return kronecker.add_dora_(weight, self.w1, self.w2, self.scaling, *dora)

    def rows(self, start: int, length: int) -> Iterator[tuple[int, LoKrWeights]]:
        """Rows start:start+length of the update, as (offset in these rows, update) pairs.

        Raises LoKrShapeError if they are out of range, or for DoRA on the input axis, whose norms need all rows.
        """
        if start < 0 or length < 1 or start + length > self.shape[0]:
            expected, found = f"rows within 0 to {self.shape[0]}", f"rows {start} to {start + length}"
            raise LoKrShapeError("These rows of the update are out of range", expected=expected, found=found)
        if self.dora_axis == "in" and (start, length) != (0, self.shape[0]):
            raise LoKrShapeError(
                "DoRA on the input axis needs all rows of the weight",
                found=f"rows {start} to {start + length} of {self.shape[0]}",
                hint="use a model whose layers are fused as in training",
            )
        for offset, size, w1, w2 in kronecker.split_rows(self.w1, self.w2, start, length):
            dora, norm, own = self.dora_scale, self.dora_norm, slice(start + offset, start + offset + size)
            if dora is not None and self.dora_axis == "out":
                dora, norm = dora.flatten()[own], None if norm is None else norm.flatten()[own]
            yield offset, replace(self, w1=w1, w2=w2, dora_scale=dora, dora_norm=norm)

    def swapped_halves(self) -> Iterator[tuple[int, LoKrWeights]]:
        """The update with the two halves of its rows swapped, as (row, update) pairs.

        Raises LoKrShapeError for an odd number of rows, or for DoRA on the input axis if neither factor can be rolled.
        """
        half, odd = divmod(self.shape[0], 2)
        if odd:
            raise LoKrShapeError("Halves cannot be swapped", expected="an even number of rows", found=self.shape[0])
        w1, w2, l = self.w1, self.w2, self.w1.shape[0]
        if self.dora_axis == "in" and (l % 2 == 0 or l == 1):
            # The norms need all rows, so keep one product and roll a factor: half of the product's rows is half of
            # w1's rows, or of w2's if w1 has a single row.
            yield 0, replace(self, w2=w2.roll_rows(half)) if l == 1 else replace(self, w1=w1.roll_rows(l // 2))
            return
        for row, start in ((0, half), (half, 0)):
            yield from ((row + offset, update) for offset, update in self.rows(start, half))


@dataclass(eq=False)
class Adapter(Mapping[str, LoKrWeights]):
    """Module name (as the file spells it) -> ``LoKrWeights``, and everything else in the file.

    names: the modules' names taken apart; foreign: what is not LoKr; metadata, path: of the file
    producer: who wrote it, if it tells; notes: what was assumed, or is suspicious
    """

    modules: dict[str, LoKrWeights]
    names: dict[str, ModuleName] = field(default_factory=dict)
    foreign: Foreign = field(default_factory=Foreign)
    metadata: dict[str, str] = field(default_factory=dict)
    producer: str = "unknown"
    path: Path | None = None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self):
        for module in self.modules:
            self.names.setdefault(module, ModuleName(module, module))

    # By identity: tensors have no equality of their own, and hosts key caches by adapter.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    # Deprecated aliases: read ``foreign`` instead.
    other = property(lambda self: self.foreign.tensors)
    other_kinds = property(lambda self: {m: each.kind for m, each in self.foreign.modules.items()})
    other_names = property(lambda self: {m: each.name for m, each in self.foreign.modules.items()})
    other_keys = property(lambda self: {k: (m, n) for m, x in self.foreign.modules.items() for k, n in x.keys.items()})

    def __getitem__(self, module: str) -> LoKrWeights:
        return self.modules[module]

    def __iter__(self) -> Iterator[str]:
        return iter(self.modules)

    def __len__(self) -> int:
        return len(self.modules)

    def __repr__(self) -> str:
        where = f" from {self.path}" if self.path else ""
        return f"<Adapter: {len(self)} LoKr modules, {self.producer}{where}>"

    @property
    def experts(self) -> list[str]:
        """The experts that the file's modules are of: "high", "low", both or neither."""
        return experts_among((*self.names.values(), *(each.name for each in self.foreign.modules.values())))

    def for_expert(self, expert: str, why: str = "") -> Adapter:
        """The same without the modules of the other expert; itself if ``expert`` is "" or the file has no experts.

        why: how the expert was chosen, for the note

        Raises LoKrValueError if the file is for the other expert alone, or ``expert`` is an unknown word.
        """
        expert, found = checked_expert(expert), self.experts
        if not expert:
            return self
        if not found:
            none = f"expert={expert} has no effect: the file does not tell experts apart"
            return replace(self, notes=[*self.notes, none])
        check_held(expert, found, self.path)
        if len(found) == 1:
            return self
        kept = {module for module, name in self.names.items() if name.expert in ("", expert)}
        others = {module for module, each in self.foreign.modules.items() if each.name.expert in ("", expert)}
        left = len(self.modules) + len(self.foreign.modules) - len(kept) - len(others)
        note = (
            f"the file holds two experts: the {expert} noise expert is used{why}, {left} modules of the other are not"
        )
        return replace(
            self,
            modules={module: weights for module, weights in self.modules.items() if module in kept},
            names={module: name for module, name in self.names.items() if module in kept},
            foreign=self.foreign.select(others),
            notes=[*(each for each in self.notes if each != two_experts(self.names.values())), note],
        )
