"""An adapter in memory: module name -> LoKrWeights, and what else its file held."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from . import kronecker
from .errors import LoKrShapeError, LoKrValueError
from .kronecker import Factor

__all__ = ["Adapter", "LoKrWeights", "ModuleName", "check_strength"]


def check_strength(strength: float) -> float:
    """``strength`` as a finite float, or LoKrValueError."""
    try:
        value = float(strength)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise LoKrValueError(
            "A strength must be a finite number",
            expected="a finite number",
            found=repr(strength),
            hint="use a number such as 0.8",
        )
    return value


@dataclass(frozen=True, eq=False)
class LoKrWeights:
    """The update of one module: ΔW = scaling · (w1 ⊗ w2), and a DoRA magnitude where there is one.

    w1 (l, m), w2 (k, n, *kernel) for a weight (l·k, m·n, *kernel); ``scaling`` is what the trainer multiplied by.
    ``alpha`` is the number the file held, None where it held none. ``notes`` says what was assumed in reading it.
    """

    w1: Factor
    w2: Factor
    scaling: float = 1.0
    dora_scale: Tensor | None = None
    alpha: float | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        if self.dora_scale is not None and self.dora_axis is None:
            out, columns, *_ = self.shape
            raise LoKrShapeError(
                "dora_scale belongs to neither axis of the weight",
                expected=f"({out}, 1, ...) or (1, {columns}, ...)",
                found=tuple(self.dora_scale.shape),
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """(out, in, *kernel) as far as the factors tell; a kernel flattened in the file is part of in (see ``fit``)."""
        (l, m), (k, n, *kernel) = self.w1.shape[:2], self.w2.shape
        return (l * k, m * n, *kernel)

    @property
    def rank(self) -> int | None:
        """r of the low-rank factor (w2's where both are), None where both are whole."""
        return self.w1.rank if self.w2.rank is None else self.w2.rank

    @property
    def is_tucker(self) -> bool:
        return self.w2.t is not None

    @property
    def dora_axis(self) -> str | None:
        """ "out" or "in", the axis whose norms ``dora_scale`` replaces; None without DoRA.

        Where the shape does not tell, it is "out", LyCORIS' default.
        """
        if self.dora_scale is None:
            return None
        shape, numel = tuple(self.dora_scale.shape), self.dora_scale.numel()
        out, columns, *_ = self.shape
        flat = len(shape) < 2
        if numel == out and (flat or shape[0] == out):
            return "out"
        # `columns` may hold a flattened kernel, so a divisor will do until ``fit`` knows the weight.
        if (flat and numel == columns) or (not flat and shape[0] == 1 and shape[1] == numel and columns % numel == 0):
            return "in"
        return None

    @property
    def numel(self) -> int:
        """Stored numbers (parameters), DoRA's included."""
        return self.w1.numel + self.w2.numel + (0 if self.dora_scale is None else self.dora_scale.numel())

    def fit(self, shape: tuple[int, ...]) -> LoKrWeights:
        """The same update with the axes of a weight of ``shape``, or LoKrShapeError where it is for another."""
        w1, w2 = kronecker.fit(self.w1, self.w2, tuple(shape))
        fitted = replace(self, w1=w1, w2=w2)
        if fitted.dora_axis and self.dora_scale.numel() != shape[0 if fitted.dora_axis == "out" else 1]:
            raise LoKrShapeError(
                f"dora_scale does not fit the weight's {fitted.dora_axis}put axis",
                expected=f"weight {tuple(shape)}",
                found=f"dora_scale {tuple(self.dora_scale.shape)}",
            )
        return fitted

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether this is an update of a weight of ``shape`` (out, in, *kernel)."""
        try:
            self.fit(shape)
        except LoKrShapeError:
            return False
        return True

    def delta(self, dtype: torch.dtype | None = None) -> Tensor:
        """scaling · (w1 ⊗ w2), built whole: (out, in, *kernel). For tests and small weights.

        Computed in ``dtype``, fp32 unless the factors are wider. DoRA is not in it: it depends on the base weight.
        """
        if dtype is None:
            wide = any(t.dtype == torch.float64 for f in (self.w1, self.w2) for t in f.tensors.values())
            dtype = torch.float64 if wide else torch.float32
        return kronecker.materialize(self.w1, self.w2, dtype) * self.scaling

    def add_to_(self, weight: Tensor, strength: float = 1.0, base: Tensor | None = None) -> Tensor:
        """Add this update to ``weight`` (out, in, *kernel) in place, each number rounded once; returns ``weight``.

        Without DoRA: weight += strength · ΔW. With DoRA: weight += strength · (W' - W), where W is ``base``
        (``weight`` itself unless given). Raises LoKrShapeError where it does not fit.
        """
        strength = check_strength(strength)
        if strength == 0:
            return weight
        if self.dora_scale is None:
            return kronecker.add_kron_(weight, self.w1, self.w2, self.scaling * strength)
        return kronecker.add_dora_(
            weight, self.w1, self.w2, self.scaling, self.dora_scale, self.dora_axis, strength, base
        )

    def rows(self, start: int, length: int) -> Iterator[tuple[int, LoKrWeights]]:
        """Rows start:start+length of the update as (offset in these rows, update), for a weight that holds just them.

        Raises LoKrShapeError for rows that are not there, and for DoRA on the input axis: its norms run over all the
        rows.
        """
        if start < 0 or length < 1 or start + length > self.shape[0]:
            raise LoKrShapeError(
                "The update has no such rows",
                expected=f"rows within 0 to {self.shape[0]}",
                found=f"rows {start} to {start + length}",
            )
        if self.dora_axis == "in" and (start, length) != (0, self.shape[0]):
            raise LoKrShapeError(
                "DoRA on the input axis needs all rows of the weight",
                expected=f"{self.shape[0]} rows",
                found=f"rows {start} to {start + length}",
                hint="apply this adapter to a model whose layers are fused as they were in training",
            )
        for offset, size, w1, w2 in kronecker.split_rows(self.w1, self.w2, start, length):
            dora = self.dora_scale
            if self.dora_axis == "out":
                dora = dora.flatten()[start + offset : start + offset + size]
            yield offset, replace(self, w1=w1, w2=w2, dora_scale=dora)

    def swapped_halves(self) -> Iterator[tuple[int, LoKrWeights]]:
        """The update with the two halves of its rows changed over, as (row, update) pairs.

        Raises LoKrShapeError for an odd number of rows, or DoRA on the input axis where no factor can be turned.
        """
        half, odd = divmod(self.shape[0], 2)
        if odd:
            raise LoKrShapeError("Halves cannot be swapped", expected="an even number of rows", found=self.shape[0])
        if self.dora_axis == "in":
            # Its norms run over all rows, so it stays one product, with a factor turned round: half of the product's
            # rows is half of w1's, or of w2's where w1 has but one.
            if self.w1.shape[0] % 2 == 0:
                yield 0, replace(self, w1=self.w1.roll_rows(self.w1.shape[0] // 2))
                return
            if self.w1.shape[0] == 1:
                yield 0, replace(self, w2=self.w2.roll_rows(half))
                return
        for row, start in ((0, half), (half, 0)):
            yield from ((row + offset, update) for offset, update in self.rows(start, half))


@dataclass(frozen=True)
class ModuleName:
    """A module's name in a file, taken apart.

    ``path`` is the name behind the prefix; ``flattened`` tells that its dots were written as ``_``. ``component`` is
    the part of a pipeline that the prefix names: "unet" (any denoiser), "te", "te1" to "te4", or "" unknown.
    """

    full: str
    path: str
    component: str = ""
    flattened: bool = False


@dataclass(eq=False)
class Adapter(Mapping[str, LoKrWeights]):
    """Module name (as the file spells it) -> ``LoKrWeights``, and everything else the file held.

    ``other``: the tensors that are no LoKr, under their keys; ``other_kinds``: module name -> what they are
    ("LoRA", "full difference", ...); ``other_names``: the same modules' names taken apart; ``other_keys``: key ->
    (module, tensor name as consumers know it), or (key, "") where nothing is known of it. ``notes``: what was assumed
    or is suspicious. ``producer``: who wrote the file, as far as it tells.
    """

    modules: dict[str, LoKrWeights]
    names: dict[str, ModuleName] = field(default_factory=dict)
    other: dict[str, Tensor] = field(default_factory=dict)
    other_kinds: dict[str, str] = field(default_factory=dict)
    other_names: dict[str, ModuleName] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    producer: str = "unknown"
    path: Path | None = None
    notes: list[str] = field(default_factory=list)
    other_keys: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self):
        for module in self.modules:
            self.names.setdefault(module, ModuleName(module, module))

    # By identity: tensors have no equality of their own to compare by, and hosts key caches by adapter.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __getitem__(self, module: str) -> LoKrWeights:
        return self.modules[module]

    def __iter__(self) -> Iterator[str]:
        return iter(self.modules)

    def __len__(self) -> int:
        return len(self.modules)

    def other_by_name(self, modules: Container[str] | None = None) -> dict[str, Tensor]:
        """``other`` under "module.tensor name" as consumers expect it: PEFT's names of adapters are left out.

        Of the modules in ``other_kinds`` all, or those in ``modules``; and what belongs to no module.
        """
        places = {key: self.other_keys.get(key, (key, "")) for key in self.other}
        return {
            f"{module}.{name}" if name else key: self.other[key]
            for key, (module, name) in places.items()
            if modules is None or module in modules or module not in self.other_kinds
        }

    def __repr__(self) -> str:
        where = f" from {self.path}" if self.path else ""
        return f"<Adapter: {len(self)} LoKr modules, {self.producer}{where}>"
