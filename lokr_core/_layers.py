"""What kind of layer a module is, told by its attributes: hosts have Linears and convolutions of their own classes."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import LoKrValueError

WeightOf = Callable[[nn.Module], "Tensor | None"]
"""A host's way to the numbers of a module's quantised or offloaded weight; None leaves it to ``base_weight``."""

LINEAR, CONVOLUTION, EMBEDDING, ATTENTION = "linear", "convolution", "embedding", "attention"


def kind_of(module: nn.Module) -> str | None:
    """ "linear", "convolution", "embedding", "attention" (its own projections), or None for what live can't follow."""
    if isinstance(module, nn.MultiheadAttention):
        return ATTENTION
    if _has_ints(module, "in_channels", "out_channels", "groups") and hasattr(module, "stride"):
        return CONVOLUTION if 1 <= kernel_axes(module) <= 3 and not getattr(module, "transposed", False) else None
    if _has_ints(module, "in_features", "out_features"):
        return LINEAR
    # An EmbeddingBag has a mode: it sums rows, so an index is no row of its output.
    if _has_ints(module, "num_embeddings", "embedding_dim") and not hasattr(module, "mode"):
        return EMBEDDING
    return None


def _has_ints(module: nn.Module, *names: str) -> bool:
    # Its own attributes: a whole model may answer for its configuration's.
    return all(isinstance(vars(module).get(name), int) for name in names)


def shape_of(module: nn.Module) -> tuple[int, ...] | None:
    """The shape of the module's weight as its attributes tell it: a packed weight's own shape is another."""
    kind = kind_of(module)
    if kind == LINEAR:
        return (module.out_features, module.in_features)
    if kind == CONVOLUTION:
        return (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
    if kind == EMBEDDING:
        return (module.num_embeddings, module.embedding_dim)
    return None


def kernel_axes(module: nn.Module) -> int:
    """How many axes of positions lie behind the channels: 0 for all but convolutions."""
    return len(vars(module).get("kernel_size", ()))


def convolution(module: nn.Module) -> tuple[dict[str, Any] | None, tuple[Any, ...] | None]:
    """(arguments, padding): how ``module`` convolves, as arguments of ``F.conv*d`` with the padding in numbers, and
    what ``F.pad`` does to its input before (see ``padded``), None if the convolution pads by itself.

    Returns (None, None) if it is not a convolution.

    >>> convolution(nn.Conv1d(4, 4, 2, padding="same"))
    ({'stride': (1,), 'padding': (0,), 'dilation': (1,), 'groups': 1}, ([0, 1], 'constant'))
    """
    axes = kernel_axes(module)
    if not axes:
        return None, None
    conv = {"stride": module.stride, "padding": module.padding, "dilation": module.dilation, "groups": module.groups}
    mode = getattr(module, "padding_mode", "zeros")
    if mode == "zeros" and not isinstance(module.padding, str):
        return conv, None
    total = (0,) * axes
    if module.padding == "same":
        total = tuple(d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True))
    elif not isinstance(module.padding, str):
        total = tuple(2 * p for p in module.padding)
    if mode == "zeros" and all(t % 2 == 0 for t in total):
        return {**conv, "padding": tuple(t // 2 for t in total)}, None
    around = [side for t in reversed(total) for side in (t // 2, t - t // 2)]  # the last axis first, as F.pad has it
    return {**conv, "padding": (0,) * axes}, (around, "constant" if mode == "zeros" else mode)


def padded(x: Tensor, padding: tuple[Any, ...] | None) -> Tensor:
    """``x`` as a convolution sees it whose ``padding`` is given by ``convolution``."""
    return x if padding is None else F.pad(x, *padding)


def input_of(args: tuple, kwargs: dict) -> Tensor:
    """The input of a layer's call, however it was passed."""
    return args[0] if args else next(iter(kwargs.values()))


def with_input(x: Tensor, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """The same call with another input."""
    if args:
        return (x, *args[1:]), kwargs
    first = next(iter(kwargs))
    return args, {**kwargs, first: x}


def dequantized(weight: Tensor) -> Tensor:
    """The numbers that a weight stands for: a quantised tensor class dequantises itself, all others are returned."""
    is_plain = type(weight) in (Tensor, nn.Parameter) or not hasattr(weight, "dequantize")
    return weight if is_plain else weight.dequantize()


def base_weight(module: nn.Module, parameter: str, weight_of: WeightOf | None) -> Tensor:
    """The numbers of the base weight, dequantised, in the shape that the layer's attributes tell.

    Raises LoKrValueError where they cannot be had.
    """
    weight = weight_of(module) if weight_of is not None else None
    if weight is None:
        weight = getattr(module, parameter, None)
        weight = None if weight is None else dequantized(weight)
    shape = shape_of(module) if parameter == "weight" else None
    found = "no weight" if weight is None else f"{tuple(weight.shape)} {weight.dtype} on {weight.device}"
    usable = weight is not None and weight.is_floating_point() and not weight.is_meta
    if usable and shape is not None and tuple(weight.shape) != shape:
        usable = weight.numel() == prod(shape)
        weight = weight.reshape(shape) if usable else weight
    if not usable:
        raise LoKrValueError(
            "DoRA needs the base weight's numbers, which this layer does not show",
            expected=f"a loaded floating weight {'' if shape is None else shape}".strip(),
            found=found,
            hint="pass attach(..., weight_of=...), a function from a module to its dequantised weight",
        )
    return weight.detach().as_subclass(torch.Tensor)
