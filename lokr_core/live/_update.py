"""What an adapter adds to one weight: its updates, their strength now, and their factors on each device and dtype."""

from __future__ import annotations

import math
import weakref
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .._layers import CONVOLUTION, LINEAR, base_weight
from ..adapter import LoKrWeights
from ..errors import blame
from ..kronecker import Factor, PlannedConv, PlannedLinear, compute_dtype, dora_ratio, full_precision, is_compiling

Planned = PlannedLinear | PlannedConv


@dataclass(frozen=True, eq=False)
class Piece:
    """One update and the rows of the weight that it is added to, from ``start`` on; None for all of them."""

    start: int | None
    weights: LoKrWeights

    def of(self, tensor: Tensor, axis: int) -> Tensor:
        """The piece's rows of a weight (axis 0), or its channels of an output: a view."""
        return tensor if self.start is None else tensor.narrow(axis, self.start, self.weights.shape[0])


class LayerUpdate:
    """What one adapter adds to one weight. Its factors are cached for each device and dtype.

    control: the ``Control`` that all updates of the adapter share
    module: the module's name in the file; path, parameter: the weight's in the model; kind: its layer's (``kind_of``)
    """

    def __init__(
        self, control: Any, module: str, path: str, parameter: str, kind: str | None, pieces: tuple[Piece, ...]
    ):
        self.control, self.module, self.path, self.parameter = control, module, path, parameter
        self.kind, self.pieces = kind, pieces
        self.factor = 1.0
        axes = {piece.weights.dora_axis for piece in pieces}
        self.has_dora, self.scales_rows = axes != {None}, "out" in axes
        # DoRA on the input axis scales the input of a linear layer or a convolution, if it is for all rows.
        self.scales_input = pieces[0].start is None and "in" in axes and kind in (LINEAR, CONVOLUTION)
        self.no_ratios: list[Tensor | None] = [None] * len(pieces)
        # Whether it only adds ΔW x to the output of a Linear or a convolution.
        self.only_adds = kind in (LINEAR, CONVOLUTION) and parameter == "weight" and not self.has_dora
        self.release()

    def release(self) -> None:
        """Drop everything that was computed for a device."""
        self._factors: dict[tuple, list[tuple[Factor, Factor]]] = {}
        self._planned: dict[tuple, list[tuple[Piece, Planned]]] = {}
        self._ratios: dict[torch.device | None, tuple] = {}

    def strength(self) -> float:
        """The adapter's strength now, times this update's factor."""
        return self.control.now() * self.factor

    def factors(self, device: torch.device, dtype: torch.dtype) -> list[tuple[Factor, Factor]]:
        """Each piece's (w1, w2) on ``device`` in ``dtype``, with the trainer's scaling in w1."""
        made = self._factors.get((device, dtype))
        if made is None:
            made = [_prepared(piece.weights, device, dtype) for piece in self.pieces]
            if not is_compiling():  # a graph's tensors belong to one run of it
                self._factors[device, dtype] = made
        return made

    def planned(
        self, device: torch.device, dtype: torch.dtype, conv: dict[str, Any] | None
    ) -> list[tuple[Piece, Planned]]:
        """Each piece with what adds its ``factors`` to the output of a Linear, or a convolution as ``conv`` says."""
        made = self._planned.get((device, dtype))
        if made is None:
            pairs = self.factors(device, dtype)
            plans: list[Planned] = [
                PlannedLinear(*pair) if conv is None else PlannedConv(*pair, conv) for pair in pairs
            ]
            made = self._planned[device, dtype] = list(zip(self.pieces, plans, strict=True))
        return made

    def add_to_(self, weight: Tensor, strength: float, base: Tensor) -> None:
        """Add the update to ``weight`` in place; ``base``: its numbers without any update."""
        if weight.ndim == 1:  # a bias, a norm: one column
            weight, base = weight.unsqueeze(1), base.unsqueeze(1)
        for piece in self.pieces:
            piece.weights.add_to_(piece.of(weight, 0), strength, piece.of(base, 0))

    def ratios(self, module: nn.Module, device: torch.device) -> list[Tensor | None]:
        """Each piece's DoRA ratio (see ``dora_ratio``), None without DoRA.

        Cached until the module's weight is another tensor or is written to.
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
                ratios = [_ratio(piece.weights, piece.of(base, 0)) for piece in self.pieces]
        self._ratios[device] = (weakref.ref(weight) if weight is not None else lambda: None, _state(weight), ratios)
        return ratios

    def __deepcopy__(self, memo: dict) -> LayerUpdate:
        # The updates never change, so a copy shares them.
        copy = LayerUpdate(deepcopy(self.control, memo), self.module, self.path, self.parameter, self.kind, self.pieces)
        copy.factor = self.factor
        return copy

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name not in ("_factors", "_ratios", "_planned")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self.release()


Active = list[tuple[LayerUpdate, float]]
"""The updates whose strength is not 0, each with its strength."""


def _ratio(weights: LoKrWeights, base: Tensor) -> Tensor | None:
    if weights.dora_scale is None or weights.dora_axis is None:
        return None
    dora = weights.dora_scale, weights.dora_axis, weights.dora_norm
    return dora_ratio(base, weights.w1, weights.w2, weights.scaling, *dora)


def _state(weight: Tensor | None) -> tuple | None:
    """Changes if a weight is written to; a tensor made under ``inference_mode`` does not count writes."""
    if weight is None:
        return None
    try:
        return (weight.data_ptr(), None if weight.is_inference() else weight._version)
    except RuntimeError:  # a subclass without memory
        return None


@torch.no_grad()
def _prepared(weights: LoKrWeights, device: torch.device, dtype: torch.dtype) -> tuple[Factor, Factor]:
    """Both factors as they are used: the scaling in w1, low-rank ones built whole if that takes no more memory."""
    factors = weights.w1.without_kernel(), weights.w2
    if is_compiling():
        return _cast(*factors, weights.scaling, device, dtype)
    # Tensors made under inference_mode cannot take part in a backward pass later.
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
    """The factor built whole if that takes no more memory, else itself."""
    factor = factor.map(lambda tensor: tensor.detach().to(device))
    rows, cols, *kernel = factor.shape
    if factor.whole is not None or factor.numel < rows * cols * math.prod(kernel):
        return factor
    return Factor(factor.materialize(dtype, device))
