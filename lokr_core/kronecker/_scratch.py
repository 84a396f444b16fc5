"""The scratch memory that updated weights are written into.

On a CPU new memory costs more than the pass that fills it, so buffers are kept: as many as were in use at a time. Other
devices' allocators keep memory themselves, and know about streams.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Free buffers by dtype, flat. Threads take them out while they use them; list.pop and append are atomic.
_free: dict[torch.dtype, list[Tensor]] = {}


def take(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(memory of the weight's shape, dtype, device and, if it is dense, strides; what to give ``back`` after use)"""
    if not weight.is_cpu:
        return (out := torch.empty_like(weight)), out
    size = weight.numel()
    try:
        flat = _free[weight.dtype].pop()
    except (KeyError, IndexError):
        flat = None
    if flat is None or flat.numel() < size:
        del flat  # before the larger one is made
        with torch.inference_mode(False):  # what is made inside it cannot be written to outside
            flat = torch.empty(size, dtype=weight.dtype)
    return flat[:size].view(weight.shape) if weight.is_contiguous() else _strided(flat, weight), flat


def back(flat: Tensor) -> None:
    """Keep the buffer for the next ``take``."""
    if flat.is_cpu:
        _free.setdefault(flat.dtype, []).append(flat)


def _strided(flat: Tensor, weight: Tensor) -> Tensor:
    like = torch.empty_like(weight, device="meta")  # keeps a dense tensor's strides
    return flat.as_strided(like.shape, like.stride())


def release_scratch() -> None:
    """Free what is not in use."""
    _free.clear()
