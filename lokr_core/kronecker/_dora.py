"""Weight decomposition (DoRA): the norm of V = W + scale * (w1 ⊗ w2) is replaced by a trained magnitude.

W' = V * dora_scale / (‖V‖ + eps), the norm taken per row of V (axis "out") or per column (axis "in"), kernel axes
included; eps is the computing dtype's. From LyCORIS ``functional/general.py``. At strength s a weight becomes
W + s * (W' - W): 0 gives the base, 1 what was trained. A file may give the norms that ``dora_scale`` stands over
itself (musubi-tuner's LTX-2 fork for ComfyUI, which divides by ‖W‖): then W' = V * dora_scale / (norm + eps).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..errors import LoKrShapeError
from ._factor import Factor, fit
from ._numerics import compute_dtype, full_precision
from ._tiles import add_block_, blocks, check_dtype, kron_view


def _merged_blocks(base: Tensor, w1: Factor, w2: Factor, scale: float) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Each block of the grid (l, k, m, n, *kernel): its slices of l and k, W, and V = W + scale * (w1 ⊗ w2)."""
    view = kron_view(base, w1.shape, w2.shape)
    compute = compute_dtype(base.dtype)
    last = None
    # Up to four blocks of scratch are alive at a time (W, V and what their norm needs): 1/8 of the weight together.
    for i, j in blocks(view, share=32):
        if j != last:
            w2_rows, last = w2.materialize_rows(j.start, j.stop, compute, base.device), j
        w = view[i, j].to(compute)
        v = w.clone() if w.dtype == base.dtype else view[i, j].to(compute)
        add_block_(v, w1.materialize_rows(i.start, i.stop, compute, base.device), w2_rows, scale)
        yield i, j, w, v


@torch.no_grad()
def dora_ratio(
    base: Tensor,
    w1: Factor | Tensor,
    w2: Factor | Tensor,
    scale: float,
    dora_scale: Tensor,
    axis: str,
    norm: Tensor | None = None,
) -> Tensor:
    """dora_scale / (‖V‖ + eps), what the rows (axis "out") or columns ("in") of V are multiplied by to give W'.

    base: W (l*k, m*n, *kernel); the rest as for ``add_dora_``; norm: in place of ‖V‖

    Returns (l*k,) or (m*n,) in the computing dtype, on base's device. V is computed block by block and never whole, and
    its norm from its numbers, since ‖W‖² + 2 <W, ΔW> + ‖ΔW‖² cancels if ΔW is close to -W.

    >>> w, w1, w2 = torch.randn(8, 6), torch.randn(4, 3), torch.randn(2, 2)
    >>> v = w + 0.5 * torch.kron(w1, w2)
    >>> torch.allclose(dora_ratio(w, w1, w2, 0.5, torch.ones(8), "out"), 1 / v.norm(dim=1))
    True

    Raises LoKrShapeError if factors or dora_scale do not fit, LoKrValueError if base is quantised or complex.
    """
    check_dtype(base)
    w1, w2 = fit(Factor.of(w1), Factor.of(w2), tuple(base.shape))
    magnitude = _magnitude(base, dora_scale, axis)
    if norm is not None:
        norm = _magnitude(base, norm, axis)
        return magnitude / (norm + torch.finfo(norm.dtype).eps)
    norm = torch.zeros_like(magnitude)
    with full_precision(base.device):
        if axis == "in":
            squares = norm.view(w1.shape[1], w2.shape[1])
            for _, _, _, v in _merged_blocks(base, w1, w2, scale):
                squares += v.square_().sum((0, 1, *range(4, v.ndim)))
            norm.sqrt_()
        else:
            rows = norm.view(w1.shape[0], w2.shape[0])
            for i, j, _, v in _merged_blocks(base, w1, w2, scale):
                rows[i, j] = torch.linalg.vector_norm(v, dim=tuple(range(2, v.ndim)))
        return magnitude / (norm + torch.finfo(norm.dtype).eps)


def _magnitude(weight: Tensor, dora_scale: Tensor, axis: str) -> Tensor:
    """dora_scale, flat, in the computing dtype on the weight's device. Raises LoKrShapeError if its size differs."""
    size = weight.shape[0 if axis == "out" else 1]
    if dora_scale.numel() != size:
        raise LoKrShapeError(
            f"dora_scale does not fit the weight's {axis}put axis",
            expected=f"{size} numbers for weight {tuple(weight.shape)}",
            found=f"{dora_scale.numel()} numbers, shape {tuple(dora_scale.shape)}",
        )
    return dora_scale.to(weight.device, compute_dtype(weight.dtype)).flatten()


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
    norm: Tensor | None = None,
) -> Tensor:
    """``weight += strength * (W' - W)`` in place, block by block. Returns ``weight``.

    weight: (l*k, m*n, *kernel); base: W, of the same shape; None for ``weight`` itself
    w1: (l, m), w2: (k, n, *kernel), as for ``add_kron_``
    dora_scale: l*k numbers for axis "out", m*n for axis "in"; norm: as many, in place of ‖V‖

    Raises LoKrShapeError if factors, dora_scale or base do not fit, LoKrValueError if the weight is quantised or
    complex.

    >>> w, w1, w2 = torch.randn(8, 6), torch.randn(4, 3), torch.randn(2, 2)
    >>> v = w + 0.5 * torch.kron(w1, w2)
    >>> trained = v / v.norm(dim=1, keepdim=True)
    >>> torch.allclose(add_dora_(w.clone(), w1, w2, 0.5, torch.ones(8), "out"), trained, atol=1e-5)
    True
    """
    check_dtype(weight)
    w1, w2 = fit(Factor.of(w1), Factor.of(w2), tuple(weight.shape))
    base = weight if base is None else base
    if base.shape != weight.shape:
        raise LoKrShapeError(
            "The base does not have the weight's shape", expected=tuple(weight.shape), found=tuple(base.shape)
        )
    view = kron_view(weight, w1.shape, w2.shape)
    compute = compute_dtype(weight.dtype)
    ones = (1,) * (view.ndim - 4)
    grid = {"out": (*view.shape[:2], 1, 1, *ones), "in": (1, 1, *view.shape[2:4], *ones)}[axis]
    magnitude = _magnitude(weight, dora_scale, axis).reshape(grid)
    if strength == 0 or weight.numel() == 0:
        return weight
    eps = torch.finfo(compute).eps
    with full_precision(weight.device):
        known = None
        if axis == "in" or norm is not None:
            known = dora_ratio(base, w1, w2, scale, dora_scale, axis, norm).reshape(grid)
        for i, j, w, v in _merged_blocks(base, w1, w2, scale):
            if known is not None:
                ratio = known[i, j] if axis == "out" else known
            else:
                ratio = magnitude[i, j] / (torch.linalg.vector_norm(v, dim=tuple(range(2, v.ndim)), keepdim=True) + eps)
            change = v.mul_(ratio).sub_(w)
            current = w if base is weight else view[i, j].to(compute)
            view[i, j].copy_(current.add_(change, alpha=strength))
    return weight
