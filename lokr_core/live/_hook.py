"""The hooks that bring adapters into one module's forward.

Hooks instead of a replaced forward: a hook is passed the module it runs on, so it is right for replicas and deep
copies, and whatever else replaces ``module.forward`` (accelerate, ComfyUI, A1111) can come and go in any order.

Each call of a Linear or a convolution goes one of two ways (see _way.py): the updates are added to its output
(_output.py), or its own operation gets the updated weight (_call.py).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from .._layers import CONVOLUTION, EMBEDDING, LINEAR, convolution, input_of, kernel_axes, padded, shape_of, with_input
from ..kronecker import Update, followed, is_compiling, updated_weight
from ._call import Call, begin, finish
from ._output import FLOATS, add_all, add_embedding, input_scale, only_adds
from ._rerun import run_with_weights
from ._update import Active, LayerUpdate
from ._way import THROUGH, Ways


class LiveHook:
    """Adds the ``parts`` to the output of the module it is called with. ``parts`` is replaced whole, never changed."""

    def __init__(self, kind: str | None, parts: tuple[LayerUpdate, ...] = ()):
        self.kind, self.parts, self.ways = kind, parts, Ways()

    def active(self) -> Active:
        strengths = [(part, part.strength()) for part in self.parts]
        return [pair for pair in strengths if pair[1] != 0]

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        x = input_of(args, kwargs)
        call = None if is_compiling() else finish(self, x, failed=output is None)
        if output is None:
            return None
        active = self.active() if call is None else call.active
        scaled = call is not None and call.scaled is x
        if call is not None:
            x = call.before if scaled else x
            if call.answered is not None:
                active = [pair for pair in active if pair[0].parameter != "weight"]
            elif call.goes_through:
                self.ways.unseen(call.key)
        if not active:
            return None
        if only_adds(active, x, output):
            conv, padding = convolution(module)
            axis, x = -1 - kernel_axes(module), padded(x, padding)
            for part, strength in active:
                for piece, add in part.planned(x.device, x.dtype, conv):
                    add(piece.of(output, axis), x, strength)
            return output
        if self.kind == EMBEDDING:
            return add_embedding(module, active, x, output)
        if self.kind not in (LINEAR, CONVOLUTION):
            return run_with_weights(module, active, args, kwargs)

        def run_layer(x: Tensor) -> Tensor:
            """The layer's own output for another input."""
            new_args, new_kwargs = with_input(x, args, kwargs)
            return module.forward(*new_args, **new_kwargs)

        if not scaled and any(part.scales_input for part, _ in active):
            # Another pre-hook replaced the input that ours had scaled, or ours left it to the compiler's graph, which
            # drops the first run: scale (again) and re-run the layer.
            output = run_layer(x * input_scale(module, active, x))
        own = call.outputs if call is not None and not scaled else []
        return add_all(module, active, x, output, run_layer, own[0] if len(own) == 1 else output)


class InputHook:
    """The pre-hook of a Linear or a convolution, for the ``LiveHook`` it belongs to: chooses the way of this call."""

    def __init__(self, hook: LiveHook):
        self.hook = hook

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if is_compiling():
            return None
        hook = self.hook
        active = hook.active()
        if not active:
            return None
        x = input_of(args, kwargs)
        call = Call(hook, module, active, x)
        begin(call)
        parts = tuple(part for part, _ in active if part.parameter == "weight")
        if parts and _may_go_through(module, x):
            call.key, estimate = hook.ways.of(module, x, parts)
            if estimate.way == THROUGH:
                call.enter(cast(tuple, shape_of(module)), lambda weight, out: _updated(module, active, weight, out))
                return None
            if any(part.scales_rows for part in parts):  # W x, without what the layer's forward may add to it
                call.enter(cast(tuple, shape_of(module)), None)
        if any(part.scales_input for part, _ in active):
            call.scaled = x * input_scale(module, active, x)
        return None if call.scaled is None else with_input(call.scaled, args, kwargs)


def _may_go_through(module: nn.Module, x: Tensor) -> bool:
    """Whether this call's operation may get another weight: nothing traces or records it."""
    if type(x) is not Tensor or x.dtype not in FLOATS or followed() or torch.jit.is_tracing():
        return False
    return not torch.is_grad_enabled() or not (
        x.requires_grad or any(p is not None and p.requires_grad for p in module._parameters.values())
    )


def _updated(module: nn.Module, active: Active, weight: Tensor, out: Tensor) -> Tensor:
    """The ``weight`` that an operation of the module was to use, with the updates in force, in ``out``."""
    updates = [
        Update(piece.start or 0, w1, w2, strength, ratio, piece.weights.dora_axis)
        for part, strength in active
        if part.parameter == "weight"
        for piece, (w1, w2), ratio in zip(
            part.pieces, part.factors(weight.device, weight.dtype), part.ratios(module, weight.device), strict=True
        )
    ]
    return updated_weight(weight, updates, out)


def hook_of(module: nn.Module) -> LiveHook | None:
    """The module's LiveHook, if it has one."""
    return next((hook for hook in module._forward_hooks.values() if isinstance(hook, LiveHook)), None)
