"""What kind of layer a module is, by its attributes: hosts have Linears and convolutions of their own classes."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import LoKrValueError

WeightOf = Callable[[nn.Module], "Tensor | None"]
"""A host's function from a module to its dequantised weight, or to None if ``base_weight`` is to read it."""

LINEAR, CONVOLUTION, EMBEDDING, ATTENTION = "linear", "convolution", "embedding", "attention"

# The attributes that hold the two sizes of a matrix, in the order of its axes.
_SIZES = {LINEAR: ("out_features", "in_features"), EMBEDDING: ("num_embeddings", "embedding_dim")}


def kind_of(module: nn.Module) -> str | None:
    """ "linear", "convolution", "embedding", "attention" (its own projections); None if live re-runs it or cannot."""
    if isinstance(module, nn.MultiheadAttention):
        return ATTENTION
    if _has_ints(module, "in_channels", "out_channels", "groups") and hasattr(module, "stride"):
        return CONVOLUTION if 1 <= kernel_axes(module) <= 3 and not getattr(module, "transposed", False) else None
    if _has_ints(module, *_SIZES[LINEAR]):
        return LINEAR
    # An EmbeddingBag, which has a mode, sums rows, so its output has no row per index.
    if _has_ints(module, *_SIZES[EMBEDDING]) and not hasattr(module, "mode"):
        return EMBEDDING
    return None


def _has_ints(module: nn.Module, *names: str) -> bool:
    # Only its own attributes: a model's __getattr__ may return its configuration's.
    own = vars(module)
    return all(isinstance(own.get(name), int) for name in names)


def shape_of(module: nn.Module) -> tuple[int, ...] | None:
    """The shape of the module's weight by its attributes, as a packed weight has another; None if the kind has none."""
    kind, layer = kind_of(module), cast(Any, module)
    if kind == CONVOLUTION:
        return (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size)
    return tuple(getattr(layer, size) for size in _SIZES[kind]) if kind in _SIZES else None


def kernel_axes(module: nn.Module) -> int:
    """The number of a convolution's kernel axes (1 to 3); 0 for other layers."""
    return len(vars(module).get("kernel_size", ()))


def convolution(module: nn.Module) -> tuple[dict[str, Any] | None, tuple[Any, ...] | None]:
    """(arguments, padding): how ``module`` convolves, as arguments of ``F.conv*d`` with the padding in numbers, and
    what ``F.pad`` does to its input before (see ``padded``), None if the convolution pads by itself.

    Returns (None, None) if it is not a convolution.

    >>> convolution(nn.Conv1d(4, 4, 2, padding="same"))
    ({'stride': (1,), 'padding': (0,), 'dilation': (1,), 'groups': 1}, ([0, 1], 'constant'))
    """
    axes, layer = kernel_axes(module), cast(Any, module)
    if not axes:
        return None, None
    padding, mode = layer.padding, getattr(module, "padding_mode", "zeros")
    conv = {"stride": layer.stride, "padding": padding, "dilation": layer.dilation, "groups": layer.groups}
    if mode == "zeros" and not isinstance(padding, str):
        return conv, None
    total: tuple[int, ...] = (0,) * axes  # of each axis, both sides together
    if padding == "same":
        total = tuple(d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
    elif not isinstance(padding, str):
        total = tuple(2 * p for p in padding)
    if mode == "zeros" and all(t % 2 == 0 for t in total):
        return {**conv, "padding": tuple(t // 2 for t in total)}, None
    around = [side for t in reversed(total) for side in (t // 2, t - t // 2)]  # the last axis first, as F.pad has it
    return {**conv, "padding": (0,) * axes}, (around, "constant" if mode == "zeros" else mode)


def padded(x: Tensor, padding: tuple[Any, ...] | None) -> Tensor:
    """``x`` as a convolution sees it whose ``padding`` is given by ``convolution``."""
    return x if padding is None else F.pad(x, *padding)


def input_of(args: tuple, kwargs: dict) -> Tensor:
    """The input of a layer's call, positional or by name."""
    return args[0] if args else next(iter(kwargs.values()))


def with_input(x: Tensor, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """The same call with another input."""
    if args:
        return (x, *args[1:]), kwargs
    return args, {**kwargs, next(iter(kwargs)): x}


def dequantized(weight: Tensor) -> Tensor:
    """``weight.dequantize()`` if it is of a quantised tensor class, else ``weight``."""
    is_plain = type(weight) in (Tensor, nn.Parameter) or not hasattr(weight, "dequantize")
    return weight if is_plain else weight.dequantize()


def base_weight(module: nn.Module, parameter: str, weight_of: WeightOf | None) -> Tensor:
    """The base weight, dequantised, in the shape of ``shape_of``. Raises LoKrValueError if it cannot be read."""
    weight = weight_of(module) if weight_of is not None else None
    if weight is None:
        weight = getattr(module, parameter, None)
        weight = None if weight is None else dequantized(weight)
    shape = shape_of(module) if parameter == "weight" else None
    found = "no weight" if weight is None else f"{tuple(weight.shape)} {weight.dtype} on {weight.device}"
    readable = weight is not None and weight.is_floating_point() and not weight.is_meta
    if weight is None or not readable or (shape is not None and weight.numel() != prod(shape)):
        raise LoKrValueError(
            "DoRA needs the base weight's numbers, which this layer does not show",
            expected=f"a loaded floating weight {'' if shape is None else shape}".strip(),
            found=found,
            hint="pass attach(..., weight_of=...), a function from a module to its dequantised weight",
        )
    return weight.detach().as_subclass(torch.Tensor).reshape(weight.shape if shape is None else shape)
