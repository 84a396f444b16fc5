"""Layers whose output cannot be added to: they run anew with updated weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ._update import Active


def run_with_weights(module: nn.Module, active: Active, args: tuple, kwargs: dict) -> Any:
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
