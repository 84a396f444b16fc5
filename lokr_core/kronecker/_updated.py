"""A weight with updates in force, written into another tensor: W' in one pass over W, which stays as it is.

An update of strength s adds s ΔW, or s (W' - W) with DoRA, where W' is V = W + ΔW with its rows or its columns
multiplied by c (``dora_ratio``). With all updates in force

    W' = W (1 + Σ s (c - 1)) + Σ s c ΔW        (c = 1 without DoRA)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
from torch import Tensor

from ._factor import Factor
from ._numerics import compute_dtype, full_precision
from ._tiles import blocks, kron_view, operands


class Update(NamedTuple):
    """One update of a weight's rows from ``start`` on.

    w1: (l, m), w2: (k, n, *kernel), on the weight's device and in its dtype
    strength: s
    ratio: DoRA's c, (l*k,) for axis "out", (m*n,) for axis "in"; None without DoRA
    """

    start: int
    w1: Factor
    w2: Factor
    strength: float
    ratio: Tensor | None = None
    axis: str | None = None

    @property
    def rows(self) -> int:
        return self.w1.shape[0] * self.w2.shape[0]


@torch.no_grad()
def updated_weight(weight: Tensor, updates: Iterable[Update], out: Tensor) -> Tensor:
    """``weight`` with the ``updates``, written to ``out``, which is returned. ``weight`` does not change.

    weight, out: (l*k, m*n, *kernel), of one shape, floating dtype and device, any strides
    updates: in any number and order; those of some rows may overlap

    Computed in fp32 (fp64 for fp64). In half precision each update rounds once.

    >>> w, w1, w2 = torch.randn(8, 6), torch.randn(4, 3), torch.randn(2, 2)
    >>> found = updated_weight(w, [Update(0, Factor(w1), Factor(w2), 0.5)], torch.empty_like(w))
    >>> torch.allclose(found, w + 0.5 * torch.kron(w1, w2), atol=1e-6)
    True
    """
    done = 0  # rows of ``out`` from 0 on that are written
    with full_precision(weight.device):
        for update in updates:
            start, stop = update.start, update.start + update.rows
            if done < start:
                out[done:start].copy_(weight[done:start])
            elif start < done < stop:  # some of its rows are written: so are the others now
                out[done:stop].copy_(weight[done:stop])
            source = weight if done <= start else out
            done = max(done, stop)
            if update.ratio is None:
                _add(_view(out, update), _view(source, update), update)
            else:
                _add_scaled(_view(out, update), _view(source, update), _view(weight, update), update, source is weight)
        if done < len(out):
            out[done:].copy_(weight[done:])
    return out


def _view(tensor: Tensor, update: Update) -> Tensor:
    """The update's rows as (l, k, m, n, *kernel)."""
    rows = update.rows
    tensor = tensor if rows == len(tensor) else tensor.narrow(0, update.start, rows)
    return kron_view(tensor, update.w1.shape, update.w2.shape)


def _operands(update: Update) -> tuple[Tensor, Tensor]:
    """w1 as (l, 1, m, 1, ...) and w2 as (1, k, 1, n, *kernel), built whole."""
    return operands(*(f.materialize() if f.whole is None else f.whole for f in (update.w1, update.w2)))


def _add(out: Tensor, source: Tensor, update: Update) -> None:
    """out = source + s ΔW, views (l, k, m, n, *kernel)."""
    torch.addcmul(source, *_operands(update), value=update.strength, out=out)


def _add_scaled(out: Tensor, source: Tensor, base: Tensor, update: Update, first: bool) -> None:
    """out = source + s (c - 1) W + s c ΔW, views (l, k, m, n, *kernel); base: W; first: ``source`` is W."""
    ones = (1,) * (out.ndim - 4)
    compute = compute_dtype(out.dtype)
    w1, w2 = (operand.to(compute) for operand in _operands(update))
    grid = {"out": (*out.shape[:2], 1, 1, *ones), "in": (1, 1, *out.shape[2:4], *ones)}[str(update.axis)]
    ratio = cast(Tensor, update.ratio).to(out.device, compute).reshape(grid)
    kept = (ratio - 1).mul_(update.strength)  # s (c - 1)
    if update.axis == "in" and (ones or w2.numel() < w1.numel()):
        w2 = w2 * ratio  # (1, k, m, n, *kernel)
    else:
        w1 = w1 * ratio  # (l, k, m, 1) for rows, (l, 1, m, n) for columns
    if out.dtype == compute:
        if first:
            torch.mul(base, kept.add_(1), out=out)
        else:
            out.addcmul_(base, kept)
        out.addcmul_(w1, w2, value=update.strength)
        return
    for i, j in blocks(out):  # half precision: each block passes through fp32, so that it rounds once
        wide, w = source[i, j].to(compute), base[i, j].to(compute)
        wide.addcmul_(w, _block(kept, i, j))
        wide.addcmul_(_block(w1, i, j), _block(w2, i, j), value=update.strength)
        out[i, j].copy_(wide)


def _block(operand: Tensor, i: slice, j: slice) -> Tensor:
    """The block's part of an operand whose first two axes may be 1, which is broadcast."""
    operand = operand if operand.shape[0] == 1 else operand[i]
    return operand if operand.shape[1] == 1 else operand[:, j]
