"""What kind of layer a module is, told by its attributes: hosts have Linears and convolutions of their own classes."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as all_modules

from .errors import LoKrValueError

WeightOf = Callable[[nn.Module], "Tensor | None"]
"""A host's way to the numbers of a module's quantised or offloaded weight; None leaves it to ``base_weight``."""

LINEAR, CONV, EMBEDDING, ATTENTION = "linear", "convolution", "embedding", "attention"


def kind_of(module: nn.Module) -> str | None:
    """ "linear", "convolution", "embedding", "attention" (its own projections), or None for what live can't follow."""
    if isinstance(module, nn.MultiheadAttention):
        return ATTENTION
    if _has_ints(module, "in_channels", "out_channels", "groups") and hasattr(module, "stride"):
        return CONV if 1 <= kernel_axes(module) <= 3 and not getattr(module, "transposed", False) else None
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
    if kind == CONV:
        return (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
    if kind == EMBEDDING:
        return (module.num_embeddings, module.embedding_dim)
    return None


def kernel_axes(module: nn.Module) -> int:
    """How many axes of positions lie behind the channels: 0 for all but convolutions."""
    return len(vars(module).get("kernel_size", ()))


def conv_arguments(module: nn.Module) -> dict:
    """What ``apply_kron`` needs to convolve as ``module`` does an input that went through ``padded``."""
    arguments = {"stride": module.stride, "dilation": module.dilation, "groups": module.groups}
    return {**arguments, "padding": 0 if _pads_itself(module) else module.padding}


def padded(module: nn.Module, x: Tensor) -> Tensor:
    """``x`` as the module's convolution sees it: padded, where the padding is of other numbers than 0."""
    if not _pads_itself(module):
        return x
    return F.pad(x, module._reversed_padding_repeated_twice, mode=module.padding_mode)


def _pads_itself(module: nn.Module) -> bool:
    return getattr(module, "padding_mode", "zeros") != "zeros"


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


def untouched(layer: nn.Module) -> bool:
    """Whether a call of ``layer`` is torch's own forward and nothing else: no hook has a hand in it or sees it."""
    hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    if type(layer).forward not in _TORCHS_OWN or hooks or any(_EVERYWHERE):
        return False
    placed = vars(layer).get("forward")  # who replaced it and put it back (accelerate, LyCORIS) leaves the method here
    own = getattr(placed, "__self__", None) is layer and getattr(placed, "__func__", None) in _TORCHS_OWN
    return placed is None or own


# The hooks of every module.
_EVERYWHERE = (
    all_modules._global_forward_pre_hooks,
    all_modules._global_forward_hooks,
    all_modules._global_backward_pre_hooks,
    all_modules._global_backward_hooks,
)


_TORCHS_OWN = tuple(kind.forward for kind in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))


def convolution(layer: nn.Module) -> tuple[dict | None, tuple | None]:
    """(the arguments of ``layer``'s convolution with its padding in numbers, None for a Linear; the arguments of
    ``F.pad`` before it, None where the convolution pads by itself)."""
    if not kernel_axes(layer):
        return None, None
    conv = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups}
    around, mode = layer._reversed_padding_repeated_twice, layer.padding_mode
    if mode != "zeros":
        return {**conv, "padding": (0,) * len(layer.stride)}, (around, mode)
    if not isinstance(layer.padding, str):
        return conv, None
    left, right = around[::-2], around[-2::-2]
    if left == right:
        return {**conv, "padding": tuple(left)}, None
    return {**conv, "padding": (0,) * len(layer.stride)}, (around, "constant")
