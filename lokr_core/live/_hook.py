"""The forward hook that adds adapters to one module's output.

A hook instead of a replaced forward: a hook is passed the module it runs on, so it is right for replicas and deep
copies, and whatever else replaces ``module.forward`` (accelerate, ComfyUI, A1111) can come and go in any order.

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
from torch.utils.weak import WeakIdKeyDictionary

from .._layers import CONVOLUTION, EMBEDDING, LINEAR, convolution, input_of, kernel_axes, padded, with_input
from ..kronecker import Factor, accumulate_kron_, apply_kron, autocast_dtype, embed_kron, full_precision, is_compiling
from ._update import LayerUpdate, Piece

_FLOATS = frozenset((torch.float64, torch.float32, torch.float16, torch.bfloat16))

Active = list[tuple[LayerUpdate, float]]
"""The updates whose strength is not 0, each with its strength."""


class LiveHook:
    """Adds the ``parts`` to the output of the module it is called with. ``parts`` is replaced whole, never changed."""

    def __init__(self, kind: str | None, parts: tuple[LayerUpdate, ...] = ()):
        self.kind, self.parts = kind, parts

    def active(self) -> Active:
        strengths = [(part, part.strength()) for part in self.parts]
        return [pair for pair in strengths if pair[1] != 0]

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        x = input_of(args, kwargs)
        scaled = _take_scaled(self, x) if _scaled_inputs.data else None
        active, x = (self.active(), x) if scaled is None else scaled
        if not active:
            return None
        if self.kind == LINEAR and _only_adds(active, x, output):
            for part, strength in active:
                for piece, add in part.planned(x.device, x.dtype):
                    add(piece.of(output, -1), x, strength)
            return output
        if self.kind == EMBEDDING:
            return _embedding(module, active, x, output)
        if self.kind not in (LINEAR, CONVOLUTION):
            return _run_with_weights(module, active, args, kwargs)

        def run_layer(x: Tensor) -> Tensor:
            """The layer's own output for another input."""
            new_args, new_kwargs = with_input(x, args, kwargs)
            return module.forward(*new_args, **new_kwargs)

        if scaled is None and any(part.scales_input for part, _ in active):
            # Another pre-hook replaced the input that ours had scaled, or ours left it to the compiler's graph, which
            # drops the first run: scale (again) and re-run the layer.
            output = run_layer(x * _input_scale(module, active, x))
        return _add_all(module, active, x, output, run_layer)


# The scaled input of a module's call -> (the hook it is for, the updates in force, the input before). An entry lives as
# long as the scaled input, a new tensor of this one call: threads, nested calls and exceptions cannot mix them up.
_scaled_inputs = WeakIdKeyDictionary()


class InputHook:
    """The pre-hook that scales a module's input for DoRA on the input axis, for the ``LiveHook`` it belongs to."""

    def __init__(self, hook: LiveHook):
        self.hook = hook

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        active = self.hook.active()
        if is_compiling() or not any(part.scales_input for part, _ in active):
            return None
        x = input_of(args, kwargs)
        scaled = x * _input_scale(module, active, x)
        _scaled_inputs[scaled] = self.hook, active, x
        return with_input(scaled, args, kwargs)


def _take_scaled(hook: LiveHook, x: Tensor) -> tuple[Active, Tensor] | None:
    """(the updates, the input before) if the hook's ``InputHook`` made ``x``."""
    owner, active, before = _scaled_inputs.get(x, (None, None, None))
    if owner is not hook:
        return None
    del _scaled_inputs[x]
    return active, before


def hook_of(module: nn.Module) -> LiveHook | None:
    """The module's LiveHook, if it has one."""
    return next((hook for hook in module._forward_hooks.values() if isinstance(hook, LiveHook)), None)


def _input_scale(module: nn.Module, active: Active, x: Tensor) -> Tensor:
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


def _only_adds(active: Active, x: Tensor, output: Tensor) -> bool:
    """True on the fast path: every active part is a plain Linear update and the output may be modified in place."""
    for part, _ in active:
        if not part.only_adds:
            return False
    dtype = x.dtype
    same = dtype == output.dtype and dtype in _FLOATS
    return same and _writable(x, output) and autocast_dtype(x.device) is None


def _writable(x: Tensor, output: Tensor) -> bool:
    """Whether ``output`` may be modified in place: autograd does not record it and it does not alias the input."""
    if is_compiling():  # the compiler makes additions in place by itself
        return False
    recorded = torch.is_grad_enabled() and (output.requires_grad or x.requires_grad)
    return not recorded and output.data_ptr() != x.data_ptr()


def _add_all(module: nn.Module, active: Active, x: Tensor, output: Tensor, run_layer: Callable) -> Tensor:
    """``output`` with the updates added.

    output: the layer's for ``x``, which was scaled if a part ``scales_input``
    run_layer: the layer's own forward for any input
    """
    mixed = autocast_dtype(x.device) is not None
    dtype = output.dtype if mixed or x.dtype not in _FLOATS else x.dtype
    adder = _Adder(module, output, x, x.to(dtype), run_layer)
    with full_precision(x.device):
        if any(part.scales_rows for part, _ in active):
            # If the input was scaled, the output is not W x.
            scaled = any(part.scales_input for part, _ in active)
            adder.base = _without_bias(module, run_layer(x) if scaled else output)
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
            else:  # s (c - 1) (W x) + s c (ΔW x)
                by = _by_channel(self.module, strength * (ratio - 1), self.base)
                self.add_rows(piece, piece.of(self.base, self.axis) * by)
                self.add(piece, seen, w1, w2, strength, _by_channel(self.module, ratio, self.output))

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

    def add(self, piece: Piece, x: Tensor, w1: Factor, w2: Factor, scale: float, by: Tensor | None = None) -> None:
        """The output's rows += by * scale * (w1 ⊗ w2) x."""
        x, conv = padded(x, self.padding), self.conv or {}
        if by is None and self.in_place:
            accumulate_kron_(piece.of(self.output, self.axis), x, w1, w2, scale, **conv)
            return
        y = apply_kron(x, w1, w2, scale, **conv)
        self.add_rows(piece, y if by is None else y * by)

    def add_rows(self, piece: Piece, change: Tensor) -> None:
        """The output's rows += ``change``."""
        if not self.in_place:
            if piece.start is None:
                self.output = self.output + change.to(self.output.dtype)
                return
            self.output = self.output.clone()
        piece.of(self.output, self.axis).add_(change)


def _embedding(module: nn.Module, active: Active, index: Tensor, output: Tensor) -> Tensor:
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


def _run_with_weights(module: nn.Module, active: Active, args: tuple, kwargs: dict) -> Any:
    """The module's output with updated weights, for modules whose output cannot be added to: norms, and
    MultiheadAttention, which passes its weights to a function instead of calling layers.

    A shallow copy that holds the updated weights runs; the module itself does not change.
    """
    twin = _twin(module)
    for name in dict.fromkeys(part.parameter for part, _ in active):
        owner, _, parameter = name.rpartition(".")
        holder = twin.get_submodule(owner)
        if owner and holder is module._modules[owner]:
            holder = twin._modules[owner] = _twin(holder)
        base = getattr(holder, parameter)
        with torch.no_grad():
            weight = base.detach().clone()
            for part, strength in active:
                if part.parameter == name:
                    part.add_to_(weight, strength, base.detach())
        if base.requires_grad and torch.is_grad_enabled():
            weight = base + (weight - base.detach())
        holder._parameters.pop(parameter, None)
        holder.__dict__[parameter] = weight
    return twin.forward(*args, **kwargs)


def _twin(module: nn.Module) -> nn.Module:
    """A copy of the module object with the same parameters and submodules."""
    twin = module.__new__(type(module))
    twin.__dict__.update(module.__dict__)
    twin.__dict__.pop("forward", None)  # a replaced forward is bound to the module itself
    twin._parameters, twin._modules = dict(module._parameters), dict(module._modules)
    return twin
