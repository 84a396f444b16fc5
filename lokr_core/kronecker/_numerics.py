"""A weight seen as the grid of blocks that a Kronecker product writes into."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from math import prod

import torch
from torch import Tensor

from ..errors import LoKrShapeError, LoKrValueError
from ._factor import Factor

# Whether torch.compile traces the caller; older torch has no such question.
is_compiling = getattr(torch.compiler, "is_compiling", lambda: False)

# Numbers of fp32 scratch that stay in the cores' caches; and the least that is worth a kernel call.
_CACHE, _LEAST = 1 << 19, 1 << 15


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp64 for fp64, fp32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_dtype(weight: Tensor) -> None:
    """LoKrValueError where ``weight``'s numbers stand for others (quantised integers) or are no real numbers."""
    if not weight.is_floating_point():
        raise LoKrValueError(
            "A weight of this dtype cannot be added to",
            expected="a real floating dtype",
            found=f"{str(weight.dtype).removeprefix('torch.')}, shape {tuple(weight.shape)}",
            hint="load the model unquantised, or apply the adapter to each layer's output instead of its weight",
        )


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


def fit(w1: Factor, w2: Factor, shape: tuple[int, ...]) -> tuple[Factor, Factor]:
    """Both factors with the kernel axes of a weight of ``shape`` (out, in, *kernel): w1 none, w2 all of them.

    Raises LoKrShapeError where the product is not of that shape.
    """
    w2_fit = w2.with_kernel(shape[2:])
    w1_fit = w1.with_kernel(())
    if w1_fit is not None and w2_fit is not None:
        (l, m), (k, n) = w1_fit.shape, w2_fit.shape[:2]
        if (l * k, m * n) == tuple(shape[:2]):
            return w1_fit, w2_fit
    (l, m), (k, n) = w1.shape[:2], w2.shape[:2]
    raise LoKrShapeError(
        "The product of the factors does not have the weight's shape",
        expected=f"weight {tuple(shape)}",
        found=f"{(l * k, m * n, *w2.kernel)} = w1 {w1.shape} x w2 {w2.shape}",
    )


def kron_view(weight: Tensor, w1: Factor, w2: Factor) -> Tensor:
    """``weight`` (l*k, m*n, *kernel) as a view (l, k, m, n, *kernel), so that block [i, :, j, :] is w1[i, j] * w2.

    Splitting axes never copies, whatever the strides.
    """
    (l, m), (k, n) = w1.shape, w2.shape[:2]
    return weight.unflatten(1, (m, n)).unflatten(0, (l, k))


def blocks(view: Tensor, share: int = 20) -> Iterator[tuple[slice, slice]]:
    """Slices of the first two axes (l, k) of a ``kron_view``, so that the blocks make up the weight.

    A block in the computing dtype has at most 1/``share`` of the weight's bytes (a row at least); on a CPU no more
    than stays in the cache. All blocks of some rows of w2 follow each other.
    """
    l, k = view.shape[:2]
    row = prod(view.shape[2:])
    budget = max(view.numel() * view.element_size() // (share * compute_dtype(view.dtype).itemsize), _LEAST)
    if view.device.type == "cpu":
        budget = min(budget, _CACHE)
    k_step = max(1, min(k, budget // row))
    l_step = max(1, min(l, budget // (row * k_step))) if k_step == k else 1
    for j in range(0, k, k_step):
        for i in range(0, l, l_step):
            yield slice(i, min(i + l_step, l)), slice(j, min(j + k_step, k))
