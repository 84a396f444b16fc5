"""Whether a layer's own forward is the one that its attributes suggest: both are run on a small input and compared."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ._flat import FlatForward

# The largest difference from the layer's own update, of its norm.
_CLOSE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
_SEEDS = (0, 1, 2)


@torch.no_grad()
def differs(fast: FlatForward) -> str | None:
    """How the outputs of ``fast`` differ from those of its layer's own forward, in training; None if they agree.

    Neither the layer, whose factors may be 0 yet, nor the generators of random numbers change: a shallow copy of the
    layer gets random factors.
    """
    twin, base, x = _twin(fast), fast.base, _input(fast)
    devices = [x.device] if x.is_cuda else []
    plain, close = type(base).forward(base, x), _CLOSE.get(_dtype(fast.layer), 1e-3)
    for seed in _SEEDS:  # module dropout leaves out some
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            try:
                expected = twin.own(x)
            except Exception as error:  # whatever a trainer's code raises
                return f"its own forward raises {type(error).__name__}"
            torch.manual_seed(seed)
            found = twin.fast(x, (), {})
        if found is None:
            return "its calls cannot be computed from the factors"
        size = (expected - plain).double().norm() + 1e-3 * plain.double().norm()
        if not (found - expected).double().norm() <= close * size:
            return "its own forward computes something else"
    return None


def signature(fast: FlatForward) -> tuple:
    """Layers of one signature run the same code of one class, so that one of them is tried."""
    layer, base = fast.layer, fast.base
    forms = tuple((kind, tensor.ndim, tensor.dtype) for kind, tensor in layer._parameters.items() if tensor is not None)
    switches = tuple(value for value in vars(layer).values() if value is None or isinstance(value, (bool, str)))
    dropouts = tuple(getattr(layer, name, None) for name in ("dropout", "rank_dropout", "module_dropout"))
    kernel = tuple(size != 1 for size in fast.weight_shape[2:])
    return type(layer), type(base), kernel, fast.products.groups, forms, switches, dropouts


def _dtype(layer: nn.Module) -> torch.dtype:
    return next(layer.parameters()).dtype


def _twin(fast: FlatForward) -> FlatForward:
    """``fast`` of a shallow copy of its layer, in training, active, with random parameters."""
    layer, forward = copy.copy(fast.layer), type(fast.base).forward.__get__(fast.base)
    generator = torch.Generator().manual_seed(0)
    state = layer.__dict__
    state["_parameters"] = {
        name: None if parameter is None else nn.Parameter(_random(parameter, generator), requires_grad=False)
        for name, parameter in fast.layer._parameters.items()
    }
    state.update(training=True, org_forward=forward, **fast.awake())
    state.pop("forward", None)
    twin = copy.copy(fast)
    twin.layer = layer
    return twin


def _random(parameter: Tensor, generator: torch.Generator) -> Tensor:
    values = torch.rand(parameter.shape, generator=generator) + 0.5
    signs = torch.where(torch.rand(parameter.shape, generator=generator) < 0.5, -1.0, 1.0)
    return (values * (signs if parameter.ndim else 1)).to(parameter.device, parameter.dtype)


def _input(fast: FlatForward) -> Tensor:
    """A small input, (2, in) or (1, in, *size) with a few output positions."""
    base: Any = fast.base
    shape, axes, weight = fast.weight_shape, fast.products.axes, base.weight
    size = [d * (k - 1) + 1 + s for k, s, d in zip(shape[2:], base.stride, base.dilation, strict=True)] if axes else []
    channels = shape[1] * fast.products.groups
    dtype = weight.dtype if weight.is_floating_point() else _dtype(fast.layer)
    values = torch.randn([1 if axes else 2, channels, *size], generator=torch.Generator().manual_seed(1))
    return values.to(weight.device, dtype)
