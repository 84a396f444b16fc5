"""The layer under the adapters: whether its call is torch's own, and the arguments of its convolution."""

from __future__ import annotations

from torch import nn
from torch.nn.modules import module as all_modules

from .._layers import kernel_axes


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
