"""weight += scale * (w1 ⊗ w2), without the product."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from ._factor import Device, Factor, fit
from ._fused import fused_add_, has_kernel
from ._numerics import HALF_BLOCK, LEAST_BLOCK, SHORT_RUN, compute_dtype, full_precision
from ._tiles import add_block_, blocks, check_dtype, kron, kron_view


@torch.no_grad()
def add_kron_(weight: Tensor, w1: Factor | Tensor, w2: Factor | Tensor, scale: float = 1.0) -> Tensor:
    """``weight += scale * (w1 ⊗ w2)`` in place; the product is never built. Returns ``weight``.

    weight: (l*k, m*n, *kernel), any real floating dtype, any strides (a view or a slice of rows is fine)
    w1: (l, m), w2: (k, n, *kernel), tensors or ``Factor``s, in any dtype, on any device

    Everything is computed in fp32 (fp64 for an fp64 weight), under autocast too, and each number of the weight is
    rounded once. Extra memory is at most about 1/8 of the weight's, or 1 MiB. Not recorded by autograd.

    >>> w = torch.zeros(4, 4)
    >>> add_kron_(w, torch.tensor([[1., 2.], [0., 1.]]), torch.eye(2), scale=0.5)[:2]
    tensor([[0.5000, 0.0000, 1.0000, 0.0000],
            [0.0000, 0.5000, 0.0000, 1.0000]])

    Raises LoKrShapeError if the product does not have the weight's shape, LoKrValueError if the weight is quantised or
    complex.
    """
    check_dtype(weight)
    w1, w2 = fit(Factor.of(w1), Factor.of(w2), tuple(weight.shape))
    if scale == 0 or weight.numel() == 0:
        return weight
    view = kron_view(weight, w1.shape, w2.shape)
    compute = compute_dtype(weight.dtype)
    # addcmul computes half precision in fp32 and rounds once, but takes all its operands in one dtype.
    exact = weight.dtype == compute or (
        weight.dtype.itemsize > 1
        and (weight.device.type != "cpu" or _rounds_once(weight.dtype))
        and w1.representable_in(weight.dtype)
        and w2.representable_in(weight.dtype)
    )
    add = _addcmul_ if exact else _add_by_blocks_
    # `Factor.materialize_rows` casts all of `b` even for a few rows, so wide factors are cut into column ranges first.
    b_budget = max(weight.numel() * weight.element_size() // (16 * compute.itemsize), LEAST_BLOCK)
    n_step = w2.shape[1] if w2.whole is not None else max(1, b_budget * w2.shape[1] // w2.halves[1].numel())
    with full_precision(weight.device):
        if not exact and has_kernel(view):
            first, second = (factor.materialize(compute, weight.device) for factor in (w1, w2))
            if fused_add_(view, first, second, scale):
                return weight
        for at in range(0, w2.shape[1], n_step):
            columns = w2 if n_step >= w2.shape[1] else w2.narrow_cols(at, min(n_step, w2.shape[1] - at))
            add(view.narrow(3, at, columns.shape[1]), w1, columns, scale)
    return weight


@lru_cache
def _rounds_once(dtype: torch.dtype) -> bool:
    """Whether the CPU's addcmul rounds once in that half precision; torch 2.1's rounds fp16 after each step."""
    weight, a, b = torch.randn(3, 256, generator=torch.Generator().manual_seed(0)).to(dtype)
    exact = torch.addcmul(weight.double(), a.double(), b.double(), value=0.35)
    least = (exact.to(dtype) - exact).abs().sum()
    return bool((torch.addcmul(weight, a, b, value=0.35) - exact).abs().sum() <= 1.01 * least)


def _addcmul_(view: Tensor, w1: Factor, w2: Factor, scale: float) -> None:
    """``add_kron_`` if the factors are exact in the weight's dtype: one pass over the weight, no scratch."""
    dtype, device = view.dtype, view.device
    l, k, m = view.shape[:3]
    run = prod(view.shape[3:])
    budget = max(view.numel() // 32, LEAST_BLOCK)
    l_step, k_step = max(1, budget // m), max(1, budget // run)
    if 1 < run < SHORT_RUN[dtype.itemsize] and device.type == "cpu":
        l_step, k_step = max(1, budget // (m * run)), max(1, budget // (m * run))
    for i in range(0, l, l_step):
        w1_rows = w1.materialize_rows(i, min(i + l_step, l), dtype, device)
        for j in range(0, k, k_step):
            w2_rows = w2.materialize_rows(j, min(j + k_step, k), dtype, device)
            add_block_(view[i : i + l_step, j : j + k_step], w1_rows, w2_rows, scale)


def _add_by_blocks_(view: Tensor, w1: Factor, w2: Factor, scale: float) -> None:
    """``add_kron_`` of a half precision weight and finer factors: each block passes through fp32."""
    dtype, device = compute_dtype(view.dtype), view.device
    scratch = last = None
    w2_rows: Any = None
    # A block passes three kernels, so few large blocks are best; copies of the factors' rows take their share.
    alone = [factor for factor, columns in ((w2, view.shape[2]), (w1, prod(view.shape[3:]))) if columns == 1]
    large = w2.whole is not None and all(_is_stored(factor, dtype, device) for factor in alone)
    least = HALF_BLOCK if large and view.numel() <= 8 * HALF_BLOCK else LEAST_BLOCK
    for i, j in blocks(view, 12 if large else 20, least):
        if j != last:  # a low-rank factor's rows are a product: computed once for all blocks that use them
            w2_rows = None  # free the last ones first
            w2_rows, last = w2.materialize_rows(j.start, j.stop, dtype, device), j
        block = view[i, j]
        if scratch is None:  # the first block is the largest; one scratch for all, since new memory is slow
            scratch = torch.empty(block.numel(), dtype=dtype, device=device)
        wide = scratch[: block.numel()].view(block.shape).copy_(block)
        add_block_(wide, w1.materialize_rows(i.start, i.stop, dtype, device), w2_rows, scale)
        block.copy_(wide)


def _is_stored(factor: Factor, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the factor's rows in that dtype, on that device, are a view. A copy of them is as large as the block if
    the other factor has one column."""
    return factor.whole is not None and (factor.whole.dtype, factor.whole.device) == (dtype, device)


def materialize(
    w1: Factor | Tensor, w2: Factor | Tensor, dtype: torch.dtype | None = None, device: Device = None
) -> Tensor:
    """w1 (l, m) ⊗ w2 (k, n, *kernel) built whole, (l*k, m*n, *kernel), differentiable: for tests and small weights.

    >>> materialize(torch.ones(2, 3), torch.ones(4, 5, 3, 3)).shape
    torch.Size([8, 15, 3, 3])
    """
    w1, w2 = Factor.of(w1).without_kernel(), Factor.of(w2)
    return kron(w1.materialize(dtype, device), w2.materialize(dtype, device))
