"""Weight decomposition (DoRA): the norm of V = W + scale * (w1 ⊗ w2) is replaced by a trained magnitude.

W' = V * dora_scale / (‖V‖ + eps), the norm taken per row of V (axis "out") or per column (axis "in"), kernel axes
included; eps is the computing dtype's. From LyCORIS ``functional/general.py``. At strength s a weight becomes
W + s * (W' - W): 0 is the base, 1 what was trained.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..errors import LoKrShapeError
from .add import add_block_
from .blocks import blocks, check_dtype, compute_dtype, fit, full_precision, kron_view
from .factor import Factor

__all__ = ["add_dora_"]


def _merged_blocks(base: Tensor, w1: Factor, w2: Factor, scale: float) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Each block (l, k, m, n, *kernel) of the grid: its place, W, and V = W + scale * (w1 ⊗ w2)."""
    view = kron_view(base, w1, w2)
    compute = compute_dtype(base.dtype)
    last = None
    # Up to four blocks of scratch are alive at a time (W, V and what their norm needs): 1/8 of the weight together.
    for i, j in blocks(view, share=32):
        if j != last:
            w2_rows, last = w2.rows(j.start, j.stop, compute, base.device), j
        w = view[i, j].to(compute)
        v = w.clone() if w.dtype == base.dtype else view[i, j].to(compute)
        add_block_(v, w1.rows(i.start, i.stop, compute, base.device), w2_rows, scale)
        yield i, j, w, v


@torch.no_grad()
def add_dora_(
    weight: Tensor,
    w1: Factor | Tensor,
    w2: Factor | Tensor,
    scale: float,
    dora_scale: Tensor,
    axis: str,
    strength: float = 1.0,
    base: Tensor | None = None,
) -> Tensor:
    """``weight += strength * (W' - W)`` in place, block by block. Returns ``weight``.

    weight: (l*k, m*n, *kernel); base: W, of the same shape, ``weight`` itself where none is given
    w1: (l, m), w2: (k, n, *kernel), as for ``add_kron_``
    dora_scale: l*k numbers for axis "out", m*n for axis "in"

    Raises LoKrShapeError where factors, dora_scale or base do not fit, LoKrValueError where the weight's dtype cannot
    be added to.
    """
    check_dtype(weight)
    w1, w2 = fit(Factor.of(w1), Factor.of(w2), tuple(weight.shape))
    base = weight if base is None else base
    if base.shape != weight.shape:
        raise LoKrShapeError(
            "The base is not of the weight's shape", expected=tuple(weight.shape), found=tuple(base.shape)
        )
    view = kron_view(weight, w1, w2)
    compute = compute_dtype(weight.dtype)
    ones = (1,) * (view.ndim - 4)
    grid = {"out": (*view.shape[:2], 1, 1, *ones), "in": (1, 1, *view.shape[2:4], *ones)}[axis]
    if dora_scale.numel() != weight.shape[0 if axis == "out" else 1]:
        raise LoKrShapeError(
            f"dora_scale does not fit the weight's {axis}put axis",
            expected=f"{weight.shape[0 if axis == 'out' else 1]} numbers for weight {tuple(weight.shape)}",
            found=f"{dora_scale.numel()} numbers, shape {tuple(dora_scale.shape)}",
        )
    if strength == 0 or weight.numel() == 0:
        return weight
    magnitude = dora_scale.to(weight.device, compute).reshape(grid)
    eps = torch.finfo(compute).eps
    with full_precision(weight.device):
        if axis == "in":
            squares = torch.zeros(grid, dtype=compute, device=weight.device)
            rest = (0, 1, *range(4, view.ndim))
            for _, _, _, v in _merged_blocks(base, w1, w2, scale):
                squares += v.square_().sum(rest, keepdim=True)
            ratio = magnitude / (squares.sqrt_() + eps)
        for i, j, w, v in _merged_blocks(base, w1, w2, scale):
            if axis == "out":
                norm = torch.linalg.vector_norm(v, dim=tuple(range(2, v.ndim)), keepdim=True)
                ratio = magnitude[i, j] / (norm + eps)
            change = v.mul_(ratio).sub_(w)
            current = w if base is weight else view[i, j].to(compute)
            view[i, j].copy_(current.add_(change, alpha=strength))
    return weight
