"""Which dtype to compute in, autocast, torch.compile, and the constants that were measured on CPUs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
from torch import Tensor

# Measured in fp32 on two cores of a shared x86 server (docs/benchmarks.md), except GPU_CHUNK, which is an estimate.

# The largest rank of w2 whose intermediates are laid out as (rank, positions, rows): up to here a product with the
# ranks as its rows takes half the time of one with the ranks as its columns; from 16 on it takes more.
FEW_RANKS = 8
# Numbers of intermediate that ``run_into_`` holds at a time. CPU: chunks that the allocator can reuse avoid page
# faults; a few MiB is fastest for a Linear. A convolution repacks weight and input per call: use chunks of at least a
# quarter of the output. GPU: launches dominate, so chunk as little as possible.
LINEAR_CHUNK, CONV_CHUNK, GPU_CHUNK = 3 << 19, 1 << 20, 1 << 25
# Merge: numbers of fp32 scratch that stay in the cores' caches, those that a small weight in half precision passes
# through at a time, and the least that is worth a kernel call.
CACHE, HALF_BLOCK, LEAST_BLOCK = 1 << 19, 1 << 18, 1 << 15
# Merge: numbers of a whole factor that are compared with their rounding at a time.
COMPARED = 1 << 17
# Merge: by item size, the contiguous run of a block below which the CPU's broadcasting kernels are slower (up to 10x
# at 4 numbers in fp16) than the same sum over expanded rows.
SHORT_RUN = {2: 32, 4: 8, 8: 4}
# Reading: numbers that are checked for NaN and Inf at a time.
CHECKED = 1 << 18
# Training: an intermediate is kept for the backward pass if it has at most 1/KEPT of the input's numbers.
KEPT = 2

# Whether torch.compile traces the caller; torch before 2.3 cannot tell.
is_compiling = getattr(torch.compiler, "is_compiling", lambda: False)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp64 for fp64, fp32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def full_precision(device: torch.device) -> AbstractContextManager:
    """Autocast off: inside a host's autocast a low-rank factor's product would be rounded to half precision."""
    return nullcontext() if autocast_dtype(device) is None else torch.autocast(device.type, enabled=False)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Autocast's dtype on that kind of device; None if it is off or the device does not have autocast."""
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
    parts: Iterable[Tensor] = tensor.flatten().split(CHECKED)
    if not _has_aminmax(tensor.dtype):
        parts = (part.float() for part in parts)
    return all(math.isfinite(number) for part in parts if part.numel() for number in torch.aminmax(part))


def same_numbers(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal; on the meta device, whether their shapes and dtypes are."""
    alike = one.shape == other.shape and one.dtype == other.dtype
    return alike and (one.is_meta or other.is_meta or torch.equal(one, other))
