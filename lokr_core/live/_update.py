"""What an adapter adds to one weight: its updates, their strength now, and their factors on each device and dtype."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .._layers import CONVOLUTION, LINEAR, base_weight
from ..adapter import LoKrWeights
from ..errors import blame
from ..kronecker import Factor, PlannedLinear, compute_dtype, dora_ratio, full_precision, is_compiling
from ._control import Control


@dataclass(frozen=True, eq=False)
class Piece:
    """One update and the rows of the weight that it goes to: all of them, where ``start`` is None."""

    start: int | None
    weights: LoKrWeights

    @property
    def rows(self) -> int:
        return self.weights.shape[0]

    def of(self, tensor: Tensor, axis: int) -> Tensor:
        """The piece's rows of a weight (axis 0), or its channels of an output."""
        return tensor if self.start is None else tensor.narrow(axis, self.start, self.rows)


class LayerUpdate:
    """What one adapter does to one weight. Its factors are kept for each device and dtype they were used on.

    module: the file's name of the module; path, parameter: where the weight is in the model; kind: its layer's
    """

    def __init__(
        self, control: Control, module: str, path: str, parameter: str, kind: str | None, pieces: tuple[Piece, ...]
    ):
        self.control, self.module, self.path, self.parameter = control, module, path, parameter
        self.kind, self.pieces = kind, pieces
        self.factor = 1.0
        axes = {piece.weights.dora_axis for piece in pieces}
        self.has_dora, self.scales_rows = axes != {None}, "out" in axes
        # DoRA on the input axis goes into the input of a layer that is linear in it, where it is for all rows.
        self.scales_input = pieces[0].start is None and "in" in axes and kind in (LINEAR, CONVOLUTION)
        self.no_ratios = [None] * len(pieces)
        # Whether all it does is to add a Linear's ΔW x to the layer's output.
        self.only_adds = kind == LINEAR and parameter == "weight" and not self.has_dora
        self._clear()

    def _clear(self) -> None:
        self._factors: dict[tuple, list[tuple[Factor, Factor]]] = {}
        self._planned: dict[tuple, list[tuple[Piece, PlannedLinear]]] = {}
        self._ratios: dict[torch.device, tuple] = {}

    def release(self) -> None:
        """Let go of everything that was made for a device."""
        self._clear()

    def strength(self) -> float:
        return self.control.now() * self.factor

    def factors(self, device: torch.device, dtype: torch.dtype) -> list[tuple[Factor, Factor]]:
        """Each piece's (w1, w2) on ``device`` in ``dtype``, w1 scaled as the trainer scaled it."""
        key = device, dtype
        made = self._factors.get(key)
        if made is None:
            made = [_prepared(piece.weights, device, dtype) for piece in self.pieces]
            if not is_compiling():  # what a graph makes belongs to that run of it
                self._factors[key] = made
        return made

    def planned(self, device: torch.device, dtype: torch.dtype) -> list[tuple[Piece, PlannedLinear]]:
        """Each piece with what adds its ``factors`` to a Linear's output."""
        key = device, dtype
        made = self._planned.get(key)
        if made is None:
            factors = self.factors(device, dtype)
            made = [(piece, PlannedLinear(*pair)) for piece, pair in zip(self.pieces, factors, strict=True)]
            self._planned[key] = made
        return made

    def add_to_(self, weight: Tensor, strength: float, base: Tensor) -> None:
        """Add the update to ``weight``, whose unpatched numbers are ``base``."""
        if weight.ndim == 1:  # a bias, a norm: one column
            weight, base = weight.unsqueeze(1), base.unsqueeze(1)
        for piece in self.pieces:
            piece.weights.add_to_(piece.of(weight, 0), strength, piece.of(base, 0))

    def ratios(self, module: nn.Module, device: torch.device) -> list[Tensor | None]:
        """Each piece's DoRA ratio (see ``dora_ratio``), None without DoRA.

        Kept until the module's weight is another tensor, or its numbers were written to.
        """
        if not self.has_dora:
            return self.no_ratios
        return [None if ratio is None else ratio.to(device) for ratio in self._ratios_of(module)]

    def _ratios_of(self, module: nn.Module) -> list[Tensor | None]:
        weight = getattr(module, self.parameter, None)
        device = weight.device if isinstance(weight, Tensor) else None
        known = self._ratios.get(device)
        if known is not None and known[0]() is weight and known[1] == _state(weight):
            return known[2]
        with blame(file=self.control.report.adapter.path, module=self.module):
            base = base_weight(module, self.parameter, self.control.weight_of)
            with torch.inference_mode(False):
                base = base.clone() if base.is_inference() else base
                ratios = [self._ratio(piece, base) for piece in self.pieces]
        self._ratios[device] = (weakref.ref(weight) if weight is not None else lambda: None, _state(weight), ratios)
        return ratios

    @staticmethod
    def _ratio(piece: Piece, base: Tensor) -> Tensor | None:
        weights = piece.weights
        if weights.dora_axis is None:
            return None
        arguments = (weights.w1, weights.w2, weights.scaling, weights.dora_scale, weights.dora_axis)
        return dora_ratio(piece.of(base, 0), *arguments)

    def __deepcopy__(self, memo: dict) -> LayerUpdate:
        control = memo.get(id(self.control))
        if control is None:
            control = memo[id(self.control)] = self.control.__deepcopy__(memo)
        # The updates never change, so a copy shares them.
        copy = LayerUpdate(control, self.module, self.path, self.parameter, self.kind, self.pieces)
        copy.factor = self.factor
        return copy

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name not in ("_factors", "_ratios", "_planned")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._clear()


def _state(weight: Tensor | None) -> tuple | None:
    """What changes when a weight's numbers do. A tensor made under ``inference_mode`` counts no writes."""
    if weight is None:
        return None
    try:
        return (weight.data_ptr(), None if weight.is_inference() else weight._version)
    except RuntimeError:  # a subclass without memory of its own
        return None


@torch.no_grad()
def _prepared(weights: LoKrWeights, device: torch.device, dtype: torch.dtype) -> tuple[Factor, Factor]:
    """Both factors as they are used: w1 scaled as the trainer scaled it, low-rank ones whole where that takes no more
    room."""
    factors = weights.w1.without_kernel(), weights.w2
    if is_compiling():
        return _cast(*factors, weights.scaling, device, dtype)
    # Tensors made under inference_mode could not be used for a backward later.
    with torch.inference_mode(False), full_precision(device):
        w1, w2 = (factor.map(lambda tensor: tensor.clone() if tensor.is_inference() else tensor) for factor in factors)
        return _cast(w1, w2, weights.scaling, device, dtype)


def _cast(w1: Factor, w2: Factor, scaling: float, device: torch.device, dtype: torch.dtype) -> tuple[Factor, Factor]:
    compute = compute_dtype(dtype)
    w1, w2 = _whole(w1, compute, device), _whole(w2, compute, device)
    name = "a" if w1.whole is None else "whole"
    w1 = replace(w1, **{name: w1.tensors[name].to(compute) * scaling})
    return w1.to(dtype), w2.to(dtype)


def _whole(factor: Factor, dtype: torch.dtype, device: torch.device) -> Factor:
    """A low-rank factor as one matrix where that takes no more room, else as it is."""
    factor = factor.map(lambda tensor: tensor.detach().to(device))
    rows, cols, *kernel = factor.shape
    if factor.whole is not None or factor.numel < rows * cols * math.prod(kernel):
        return factor
    return Factor(factor.materialize(dtype, device))
