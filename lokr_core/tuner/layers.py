"""The kinds of layer that can have LoKr adapters."""

from __future__ import annotations

from torch import nn

from .layer import LoKrLayer

__all__ = ["KINDS", "Conv1d", "Conv2d", "Conv3d", "Linear", "layer_class"]


class Linear(LoKrLayer):
    """x (..., in) -> (..., out)."""


class Conv1d(LoKrLayer):
    """x (batch, in, length) -> (batch, out, length'). Where W2 is whole, dW is W2 ⊗ W1, as PEFT has it."""


class Conv2d(LoKrLayer):
    """x (batch, in, height, width) -> (batch, out, height', width')."""


class Conv3d(LoKrLayer):
    """x (batch, in, depth, height, width) -> (batch, out, depth', height', width')."""


KINDS: dict[type[nn.Module], type[LoKrLayer]] = {
    nn.Linear: Linear,
    nn.Conv1d: Conv1d,
    nn.Conv2d: Conv2d,
    nn.Conv3d: Conv3d,
}


def layer_class(module: nn.Module) -> type[LoKrLayer] | None:
    """The class that wraps ``module``, or None for a kind that cannot have an adapter."""
    return next((layer for base, layer in KINDS.items() if isinstance(module, base)), None)
