"""In which dtype numbers are computed, and what autocast and torch.compile have to do with it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
from torch import Tensor

# Whether torch.compile traces the caller; older torch has no such question.
is_compiling = getattr(torch.compiler, "is_compiling", lambda: False)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp64 for fp64, fp32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def full_precision(device: torch.device) -> AbstractContextManager:
    """Autocast off: inside a host's autocast a low-rank factor's product would be rounded to half precision."""
    return nullcontext() if autocast_dtype(device) is None else torch.autocast(device.type, enabled=False)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype of autocast on that kind of device; None where it is off, or the device has none."""
    kind = device.type
    if not hasattr(torch, "get_autocast_dtype"):  # torch before 2.4
        if kind == "cpu":
            return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
        return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
    try:
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    except RuntimeError:
        return None


@lru_cache
def _has_aminmax(dtype: torch.dtype) -> bool:
    """Whether ``torch.aminmax`` supports ``dtype``: not fp8, and in torch 2.1 on a CPU not fp16."""
    try:
        torch.aminmax(torch.zeros(1, dtype=dtype))
    except RuntimeError:
        return False
    return True


def is_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite."""
    # aminmax propagates NaN and is ten times as fast as isfinite
    parts: Iterable[Tensor] = tensor.flatten().split(1 << 18)
    if not _has_aminmax(tensor.dtype):
        parts = (part.float() for part in parts)
    return all(math.isfinite(number) for part in parts if part.numel() for number in torch.aminmax(part))
