"""The forward hook that adds adapters to one module's output.

A hook, and not a forward of our own, since a hook is handed the module it runs on: so it is right for replicas and deep
copies, and whatever else replaces ``module.forward`` (accelerate, ComfyUI, A1111) can come and go in any order.

With V = W + ΔW, DoRA's W' is V with its rows or its columns multiplied by c (``dora_ratio``), and an adapter of
strength s adds s (W' - W) x to the output W x + b:

    no DoRA   s ΔW x
    rows      s (c - 1) (W x) + s c (ΔW x)
    columns   W (s (c - 1) x) + s ΔW (c x)

The columns' first term goes into the layer's own input, x (1 + s (c - 1)): the layer runs once whatever the DoRA.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .._layers import CONV, EMBEDDING, LINEAR, conv_arguments, input_of, kernel_axes, padded, with_input
from ..kronecker import accumulate_kron_, apply_kron, autocast_dtype, embed_kron, full_precision, is_compiling
from ._update import Part, Piece

_FLOATS = frozenset((torch.float64, torch.float32, torch.float16, torch.bfloat16))


class LiveHook:
    """Adds the ``parts`` to the output of the module it is called with. ``parts`` is replaced whole, never changed."""

    def __init__(self, kind: str | None, parts: tuple[Part, ...] = ()):
        self.kind, self.parts = kind, parts

    def active(self) -> list[tuple[Part, float]]:
        strengths = [(part, part.strength()) for part in self.parts]
        return [pair for pair in strengths if pair[1] != 0]

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict, output):
        x = input_of(args, kwargs)
        carried = getattr(x, "_lokr", None)
        if carried is not None and carried[0] is self:
            active, x = carried[1:]
        else:
            active, carried = self.active(), None
        if not active:
            return None
        if self.kind == LINEAR and _only_adds(active, x, output):
            for part, strength in active:
                for piece, add in part.sums(x.device, x.dtype):
                    add(piece.of(output, -1), x, strength)
            return output
        if self.kind == EMBEDDING:
            return _embedding(module, active, x, output)
        if self.kind not in (LINEAR, CONV):
            return _with_other_weights(module, active, args, kwargs)
        if carried is None and any(part.scales_input for part, _ in active):
            # Another hook made an input of its own out of ours.
            args, kwargs = with_input(x * _input_scale(module, active, x), args, kwargs)
            output = module.forward(*args, **kwargs)
        return _layer(module, active, x, output, lambda x: _again(module, x, args, kwargs))


class InputHook:
    """Scales a module's input for DoRA on the input axis. It comes before the ``LiveHook`` it belongs to.

    The input as it was, and the strengths in force, travel as an attribute of the scaled one, which is made for this
    call alone: so threads that share the module never meet.
    """

    def __init__(self, hook: LiveHook):
        self.hook = hook

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict):
        active = self.hook.active()
        if not any(part.scales_input for part, _ in active):
            return None
        x = input_of(args, kwargs)
        scaled = x * _input_scale(module, active, x)
        scaled._lokr = (self.hook, active, x)
        return with_input(scaled, args, kwargs)


def _again(module: nn.Module, x: Tensor, args: tuple, kwargs: dict) -> Tensor:
    """The layer's own output for another input, without its bias."""
    args, kwargs = with_input(x, args, kwargs)
    return _without_bias(module, module.forward(*args, **kwargs))


def hook_of(module: nn.Module) -> LiveHook | None:
    """The module's LiveHook, if it has one."""
    return next((hook for hook in module._forward_hooks.values() if isinstance(hook, LiveHook)), None)


def _input_scale(module: nn.Module, active: list[tuple[Part, float]], x: Tensor) -> Tensor:
    """1 + Σ s (c - 1), shaped for ``x``."""
    total = 1.0
    for part, strength in active:
        if part.scales_input:
            (ratio,) = part.ratios(module, x.device)
            total = total + strength * (ratio - 1)
    return _along(module, total, x, inputs=True)


def _along(module: nn.Module, vector: Tensor, tensor: Tensor, inputs: bool = False) -> Tensor:
    """``vector``, a number per channel, in ``tensor``'s dtype, shaped to be multiplied with it."""
    vector = vector.to(tensor.device, tensor.dtype)
    axes = kernel_axes(module)
    if axes and inputs:  # of a group, the same for each
        vector = vector.repeat(module.groups)
    return vector.reshape(-1, *(1,) * axes)


def _only_adds(active: list[tuple[Part, float]], x: Tensor, output: Tensor) -> bool:
    """Whether a Linear's output can be added to as it is, and that is all there is to do: almost always so, and there
    are hundreds of layers, so it has a short way of its own."""
    for part, _ in active:
        if not part.only_adds:
            return False
    dtype = x.dtype
    same = dtype == output.dtype and dtype in _FLOATS
    return same and _writable(x, output) and autocast_dtype(x.device) is None


def _writable(x: Tensor, output: Tensor) -> bool:
    """Whether ``output`` may be written to: autograd does not look on, and it is not the input itself."""
    if is_compiling():  # a graph's compiler makes the additions in place by itself
        return False
    recorded = torch.is_grad_enabled() and (output.requires_grad or x.requires_grad)
    return not recorded and output.data_ptr() != x.data_ptr()


def _layer(module: nn.Module, active: list[tuple[Part, float]], x: Tensor, output: Tensor, again: Callable) -> Tensor:
    """``output`` with the parts added. It is the layer's for ``x``, scaled where a part ``scales_input``; ``again``
    gives the layer's own for any input, without its bias."""
    mixed = autocast_dtype(x.device) is not None
    dtype = output.dtype if mixed or x.dtype not in _FLOATS else x.dtype
    seen = x.to(dtype)
    adder = _Adder(module, output, x)
    if mixed:
        with full_precision(x.device):
            _add_all(module, active, x, seen, adder, again)
    else:
        _add_all(module, active, x, seen, adder, again)
    return adder.output


def _add_all(module: nn.Module, active: list, x: Tensor, seen: Tensor, adder: _Adder, again: Callable) -> None:
    """``seen`` is x in the computing dtype."""
    base = None
    if any(part.scales_rows for part, _ in active):
        mixed = any(part.scales_input for part, _ in active)  # then the output is not W x
        base = again(x) if mixed else _without_bias(module, adder.output)
    for part, strength in active:
        if part.parameter == "bias":
            for piece, (w1, w2) in zip(part.pieces, part.factors(seen.device, seen.dtype), strict=True):
                change = apply_kron(seen.new_ones(1), w1, w2, strength)
                adder.add_rows(piece, _along(module, change, adder.output))
            continue
        factors, ratios = part.factors(seen.device, seen.dtype), part.ratios(module, seen.device)
        for piece, (w1, w2), ratio in zip(part.pieces, factors, ratios, strict=True):
            if ratio is None:
                adder.add(piece, seen, w1, w2, strength)
            elif piece.weights.dora_axis == "in":
                if not part.scales_input:  # the columns of some rows: the layer runs once more for them
                    change = again(x * _along(module, strength * (ratio - 1), x, inputs=True))
                    adder.add_rows(piece, piece.of(change, adder.axis))
                adder.add(piece, seen * _along(module, ratio, seen, inputs=True), w1, w2, strength)
            else:
                change = piece.of(base, adder.axis) * _along(module, strength * (ratio - 1), base)
                adder.add_rows(piece, change)
                adder.add(piece, seen, w1, w2, strength, _along(module, ratio, adder.output))


def _without_bias(module: nn.Module, output: Tensor) -> Tensor:
    bias = getattr(module, "bias", None)
    return output if bias is None else output - _along(module, bias, output)


class _Adder:
    """Adds to a layer's output: in place where autograd does not look on."""

    def __init__(self, module: nn.Module, output: Tensor, x: Tensor):
        self.module, self.output = module, output
        axes = kernel_axes(module)
        self.axis, self.arguments = -1 - axes, conv_arguments(module) if axes else {}
        self.in_place = _writable(x, output)

    def add(self, piece: Piece, x: Tensor, w1, w2, scale: float, by: Tensor | None = None) -> None:
        """The output's rows += by * scale * (w1 ⊗ w2) x."""
        x = padded(self.module, x)
        if by is None and self.in_place:
            accumulate_kron_(piece.of(self.output, self.axis), x, w1, w2, scale, **self.arguments)
            return
        y = apply_kron(x, w1, w2, scale, **self.arguments)
        self.add_rows(piece, y if by is None else y * by)

    def add_rows(self, piece: Piece, change: Tensor) -> None:
        """The output's rows += ``change``."""
        if not self.in_place:
            if piece.start is None:
                self.output = self.output + change.to(self.output.dtype)
                return
            self.output = self.output.clone()
        piece.of(self.output, self.axis).add_(change)


def _embedding(module: nn.Module, active, index: Tensor, output: Tensor) -> Tensor:
    base = output
    for part, strength in active:
        ((w1, w2),), (ratio,) = part.factors(base.device, base.dtype), part.ratios(module, base.device)
        change = embed_kron(index, w1, w2, base.dtype)
        if ratio is not None:
            ratio = ratio[index].unsqueeze(-1) if part.pieces[0].weights.dora_axis == "out" else ratio
            change = (base + change) * ratio.to(base.dtype) - base
        output = output + strength * change
    return output


def _with_other_weights(module: nn.Module, active: list[tuple[Part, float]], args: tuple, kwargs: dict):
    """What the module puts out with changed weights, where nothing can be added to its output: norms, and
    MultiheadAttention, which hands its weights to a function, so that no layer of its own is ever called.

    It runs again, on a shallow twin that holds the changed weights. The module itself is not touched.
    """
    twin = _twin(module)
    for name in dict.fromkeys(part.parameter for part, _ in active):
        owner, _, parameter = name.rpartition(".")
        holder = twin
        if owner:
            holder = twin._modules[owner]
            if holder is module._modules[owner]:
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
    """Another module object around the same parameters and submodules."""
    twin = module.__new__(type(module))
    twin.__dict__.update(module.__dict__)
    twin.__dict__.pop("forward", None)  # one that somebody put there is bound to the module itself
    twin._parameters, twin._modules = dict(module._parameters), dict(module._modules)
    return twin
