"""Frobenius norms of factors and of their Kronecker product, without either being built."""

from __future__ import annotations

import torch
from torch import Tensor

from ._factor import Factor


@torch.no_grad()
def factor_norm(factor: Factor | Tensor) -> float:
    """‖factor‖, in fp32 for a whole one; a low-rank one through Gram matrices of its rank, in fp64.

    low-rank: ‖a b‖² = <aᵀa, b bᵀ>. Tucker: ‖W‖² = Σ over the kernel of <t, (a aᵀ) t (b bᵀ)>.

    >>> a, b = torch.randn(8, 2), torch.randn(2, 6)
    >>> abs(factor_norm(Factor(a=a, b=b)) - float((a @ b).norm())) < 1e-4
    True
    """
    factor = Factor.of(factor)
    if factor.whole is not None:
        compute = torch.promote_types(factor.whole.dtype, torch.float32)
        return float(torch.linalg.vector_norm(factor.whole, dtype=compute))
    a, b = factor.a.double(), factor.b.flatten(1).double()
    if factor.t is None:
        squared = ((a.T @ a) * (b @ b.T)).sum()
    else:
        t = factor.t.flatten(2).double()
        inner = torch.einsum("ip,pjs->ijs", a @ a.T, t)
        squared = (t * torch.einsum("ijs,jq->iqs", inner, b @ b.T)).sum()
    # Where the product all but vanishes, rounding can leave a square below 0.
    return float(squared.clamp_min(0).sqrt())


def kron_norm(w1: Factor | Tensor, w2: Factor | Tensor) -> float:
    """‖w1 ⊗ w2‖ = ‖w1‖ · ‖w2‖."""
    return factor_norm(w1) * factor_norm(w2)
