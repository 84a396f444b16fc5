"""A LoKr at another rank, from its factors."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..adapter import LoKrWeights
from ..kronecker import Factor
from ._blocks import Nearest
from ._rank import Keep
from ._svd import energy_of, svd_of

_ROUNDS = 25


@torch.no_grad()
def resized_factor(factor: Factor, rank: int) -> tuple[Factor, float]:
    """(the factor at ``rank``, the share of ‖factor‖² that it keeps).

    Whole and low-rank factors by their SVD, which is the best; Tucker ones by HOSVD and iterations (De Lathauwer, De
    Moor and Vandewalle, 2000), which is near it. A kernel stays an axis of b.

    >>> found, energy = resized_factor(Factor(torch.randn(6, 8)), 6)
    >>> found.shape, found.rank, round(energy, 6)
    ((6, 8), 6, 1.0)
    """
    if factor.t is not None:
        return _resized_tucker(factor, rank)
    found = svd_of(factor)
    kept = min(rank, found.s.numel())
    root = found.s[:kept].sqrt()
    dtype = torch.promote_types(factor.dtype, torch.float32)
    b = (found.v[:kept] * root[:, None]).to(dtype).reshape(kept, *factor.shape[1:])
    return Factor(a=(found.u[:, :kept] * root).to(dtype), b=b), energy_of(found.s, kept)


def _resized_tucker(factor: Factor, rank: int) -> tuple[Factor, float]:
    assert factor.t is not None
    a, b = (half.double() for half in factor.halves)  # (r1, rows), (r2, cols)
    left, ra = torch.linalg.qr(a.T)  # (rows, r1), (r1, r1)
    right, rb = torch.linalg.qr(b.T)
    core = torch.einsum("pi,ij...,qj->pq...", ra, factor.t.double(), rb)
    total = float(core.square().sum())
    rows, cols = min(rank, core.shape[0]), min(rank, core.shape[1])
    u, v = _leading(core, rows), _leading(core.transpose(0, 1), cols)
    for _ in range(_ROUNDS):  # alternately, each the best for the other
        u = _leading(torch.einsum("ij...,jq->iq...", core, v), rows)
        v = _leading(torch.einsum("ij...,ip->jp...", core, u), cols)
    t = torch.einsum("ij...,ip,jq->pq...", core, u, v)
    dtype = torch.promote_types(factor.dtype, torch.float32)
    found = Factor(a=(left @ u).T.to(dtype), b=(right @ v).T.to(dtype), t=t.to(dtype))
    return found, min(1.0, float(t.square().sum()) / total) if total else 1.0


def _leading(tensor: Tensor, count: int) -> Tensor:
    """The leading left singular vectors of a tensor with all its other axes flattened: (rows, count)."""
    return torch.linalg.svd(tensor.flatten(1), full_matrices=False).U[:, :count]


def resized(weights: LoKrWeights, keep: Keep) -> Nearest:
    """The update with W2 at the rank that ``keep`` asks for, and W1 too if it is low-rank.

    A factor stays as it is where its form at that rank has more numbers. Scaling and DoRA's magnitude are kept.
    """
    w1, kept1 = (weights.w1, 1.0) if weights.w1.whole is not None else _fewer(weights.w1, keep)
    w2, kept2 = _fewer(weights.w2, keep)
    return Nearest(replace(weights, w1=w1, w2=w2, alpha=None), kept1 * kept2)


def _fewer(factor: Factor, keep: Keep) -> tuple[Factor, float]:
    spectrum = spectrum_of(factor)
    found, energy = resized_factor(factor, keep.rank_for(spectrum))
    return (found, energy) if found.numel < factor.numel else (factor, 1.0)


def spectrum_of(factor: Factor) -> Tensor:
    """The singular values that a rank of the factor is chosen by; a Tucker factor's are those of its rows."""
    return svd_of(factor).s
