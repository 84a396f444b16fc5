"""Updates added to a layer's output as factors that multiply its input.

With V = W + ΔW, DoRA's W' is V with its rows or its columns multiplied by c (``dora_ratio``), and an adapter of
strength s adds s (W' - W) x to the output W x + b:

    no DoRA   s ΔW x
    rows      s (c - 1) (W x) + s c (ΔW x)
    columns   W (s (c - 1) x) + s ΔW (c x)

The columns' first term goes into the layer's own input, x (1 + s (c - 1)), so the layer runs once in any case.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from .._layers import convolution, kernel_axes, padded
from ..kronecker import Factor, accumulate_kron_, apply_kron, autocast_dtype, embed_kron, full_precision, is_compiling
from ._update import Active, LayerUpdate, Piece

FLOATS = frozenset((torch.float64, torch.float32, torch.float16, torch.bfloat16))


def input_scale(module: nn.Module, active: Active, x: Tensor) -> Tensor:
    """1 + Σ s (c - 1), shaped to multiply x."""
    total: Any = 1.0
    for part, strength in active:
        if part.scales_input:
            ratio = cast(Tensor, part.ratios(module, x.device)[0])  # (in,)
            total = total + strength * (ratio - 1)
    return _by_channel(module, total, x, inputs=True)


def _by_channel(module: nn.Module, values: Tensor, tensor: Tensor, inputs: bool = False) -> Tensor:
    """values (channels,), in ``tensor``'s dtype on its device as (channels, 1, ...), to multiply it by. ``inputs``: of
    each group's inputs, which are repeated for all groups."""
    values = values.to(tensor.device, tensor.dtype)
    axes = kernel_axes(module)
    if axes and inputs:
        values = values.repeat(cast(int, module.groups))
    return values.reshape(-1, *(1,) * axes)


def only_adds(active: Active, x: Tensor, output: Tensor) -> bool:
    """True on the fast path: every active part only adds ΔW x, and the output may be modified in place."""
    for part, _ in active:
        if not part.only_adds:
            return False
    dtype = x.dtype
    same = dtype == output.dtype and dtype in FLOATS
    return same and _writable(x, output) and autocast_dtype(x.device) is None


def _writable(x: Tensor, output: Tensor) -> bool:
    """Whether ``output`` may be modified in place: autograd does not record it and it does not alias the input."""
    if is_compiling():  # the compiler makes additions in place by itself
        return False
    recorded = torch.is_grad_enabled() and (output.requires_grad or x.requires_grad)
    return not recorded and output.data_ptr() != x.data_ptr()


def add_all(module: nn.Module, active: Active, x: Tensor, output: Tensor, run_layer: Callable, own: Tensor) -> Tensor:
    """``output`` with the updates added.

    output: the layer's for ``x``, which was scaled if a part ``scales_input``
    run_layer: the layer's own forward for any input
    own: W x + b, ``output`` without what others add to it in the layer's forward
    """
    mixed = autocast_dtype(x.device) is not None
    dtype = output.dtype if mixed or x.dtype not in FLOATS else x.dtype
    adder = _Adder(module, output, x, x.to(dtype), run_layer)
    with full_precision(x.device):
        if any(part.scales_rows for part, _ in active):
            # If the input was scaled, the output is not W x.
            scaled = any(part.scales_input for part, _ in active)
            adder.base = _without_bias(module, run_layer(x) if scaled else own)
        for part, strength in active:
            adder.add_part(part, strength)
    return adder.output


def _without_bias(module: nn.Module, output: Tensor) -> Tensor:
    bias = getattr(module, "bias", None)
    return output if bias is None else output - _by_channel(module, bias, output)


class _Adder:
    """A layer's output during one call, to which updates are added: in place unless autograd records it.

    x: the layer's input, seen: the same in the computing dtype, base: W x, set if a part scales the output's rows
    """

    base: Tensor

    def __init__(self, module: nn.Module, output: Tensor, x: Tensor, seen: Tensor, run_layer: Callable):
        self.module, self.output, self.x, self.seen, self.run_layer = module, output, x, seen, run_layer
        self.axis = -1 - kernel_axes(module)  # of the channels
        self.conv, self.padding = convolution(module)
        self.in_place = _writable(x, output)

    def add_part(self, part: LayerUpdate, strength: float) -> None:
        """The output += the part's whole update, of a weight or a bias, with or without DoRA."""
        seen = self.seen
        factors = part.factors(seen.device, seen.dtype)
        if part.parameter == "bias":
            for piece, (w1, w2) in zip(part.pieces, factors, strict=True):
                change = apply_kron(seen.new_ones(1), w1, w2, strength)  # (out,)
                self.add_rows(piece, _by_channel(self.module, change, self.output))
            return
        for piece, (w1, w2), ratio in zip(part.pieces, factors, part.ratios(self.module, seen.device), strict=True):
            if ratio is None:
                self.add(piece, seen, w1, w2, strength)
            elif piece.weights.dora_axis == "in":
                self.add_columns(part, piece, w1, w2, strength, ratio)
            else:  # s (c - 1) (W x) + s c (ΔW x), added at once: in half precision the output is rounded once
                by = _by_channel(self.module, strength * (ratio - 1), self.base)
                y = apply_kron(padded(seen, self.padding), w1, w2, strength, **(self.conv or {}))
                change = torch.addcmul(piece.of(self.base, self.axis) * by, y, _by_channel(self.module, ratio, y))
                self.add_rows(piece, change)

    def add_columns(
        self, part: LayerUpdate, piece: Piece, w1: Factor, w2: Factor, strength: float, ratio: Tensor
    ) -> None:
        """W (s (c - 1) x) + s ΔW (c x), of which the first is in the output if the part scales the input."""
        if not part.scales_input:  # c is for some of the rows only: the layer runs once more for them
            x = self.x * _by_channel(self.module, strength * (ratio - 1), self.x, inputs=True)
            change = _without_bias(self.module, self.run_layer(x))
            self.add_rows(piece, piece.of(change, self.axis))
        x = self.seen * _by_channel(self.module, ratio, self.seen, inputs=True)
        self.add(piece, x, w1, w2, strength)

    def add(self, piece: Piece, x: Tensor, w1: Factor, w2: Factor, scale: float) -> None:
        """The output's rows += scale * (w1 ⊗ w2) x."""
        x, conv = padded(x, self.padding), self.conv or {}
        if self.in_place:
            accumulate_kron_(piece.of(self.output, self.axis), x, w1, w2, scale, **conv)
        else:
            self.add_rows(piece, apply_kron(x, w1, w2, scale, **conv))

    def add_rows(self, piece: Piece, change: Tensor) -> None:
        """The output's rows += ``change``."""
        if not self.in_place:
            if piece.start is None:
                self.output = self.output + change.to(self.output.dtype)
                return
            self.output = self.output.clone()
        piece.of(self.output, self.axis).add_(change)


def add_embedding(module: nn.Module, active: Active, index: Tensor, output: Tensor) -> Tensor:
    """An embedding's output (..., m*n) for index (...), with the updates added."""
    base = output
    for part, strength in active:
        ((w1, w2),), (ratio,) = part.factors(base.device, base.dtype), part.ratios(module, base.device)
        change = embed_kron(index, w1, w2, base.dtype)
        if ratio is not None:
            ratio = ratio[index].unsqueeze(-1) if part.pieces[0].weights.dora_axis == "out" else ratio
            change = (base + change) * ratio.to(base.dtype) - base
        output = output + strength * change
    return output
