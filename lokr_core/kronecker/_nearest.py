"""The single Kronecker product that is nearest to a sum of several, from their factors alone.

C. Van Loan and N. Pitsianis, "Approximation with Kronecker Products" (1993): laid out as a matrix of vec(W1) vec(W2)ᵀ,
a sum of t products has rank t at most, and its largest singular pair is the nearest product. Both of its vectors are
sums of the given factors, so a t × t eigenproblem finds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from ._factor import Factor


@torch.no_grad()
def nearest_kron(pairs: Sequence[tuple[Factor, Factor]], scales: Sequence[float]) -> tuple[Factor, Factor, float]:
    """(w1, w2, error): w1 ⊗ w2 is the product nearest to Σ scales[i] · w1_i ⊗ w2_i, ``error`` the norm of
    their difference as a share of the sum's norm (0 if the sum is a product, as if all w1_i are multiples of one).

    All w1_i have one shape, and all w2_i have one. Computed in fp64; a low-rank w2 has the sum of the ranks.

    >>> w1 = Factor(torch.randn(4, 4))
    >>> parts = [(w1, Factor(torch.randn(8, 8))), (w1, Factor(torch.randn(8, 8)))]
    >>> nearest_kron(parts, [0.5, 2.0])[2] < 1e-6
    True
    """
    ones, twos = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    scale = torch.tensor(scales, dtype=torch.float64)
    gram_1 = _gram(ones)
    gram_2 = _gram(twos) * scale[:, None] * scale
    values, vectors = torch.linalg.eigh(gram_1)
    kept = values > values[-1].clamp_min(0) * 1e-14
    if not kept.any():  # every w1 is zero
        return factor_sum(ones, [0.0] * len(ones)), factor_sum(twos, [0.0] * len(twos)), 0.0
    values, vectors = values[kept], vectors[:, kept]
    root = vectors * values.sqrt()  # gram_1 = root rootᵀ
    inner = root.T @ gram_2 @ root
    energies, directions = torch.linalg.eigh(inner)
    total, largest, direction = float(inner.trace()), float(energies[-1]), directions[:, -1]
    if total <= 0:
        return factor_sum(ones, [0.0] * len(ones)), factor_sum(twos, [0.0] * len(twos)), 0.0
    alpha = (vectors / values.sqrt()) @ direction  # w1 of norm 1; w2 carries the rest
    beta = (root @ direction) * scale
    balance = max(largest, 0.0) ** 0.25  # both factors of one norm
    w1 = factor_sum(ones, (alpha * balance).tolist())
    w2 = factor_sum(twos, (beta / balance).tolist() if balance else [0.0] * len(twos))
    return w1, w2, max(0.0, 1 - largest / total) ** 0.5


def factor_inner(one: Factor, other: Factor) -> float:
    """<one, other>, the sum of the products of their numbers, in fp64; low-rank factors are not built whole."""
    if all(f.whole is None and f.t is None for f in (one, other)):
        (a, b), (c, d) = one.halves, other.halves
        rows = a.double().T @ c.double()  # (r, r')
        columns = b.flatten(1).double() @ d.flatten(1).double().T  # (r, r')
        return float((rows * columns).sum())
    return float((one.materialize(torch.float64) * other.materialize(torch.float64)).sum())


def factor_sum(factors: Sequence[Factor], scales: Sequence[float]) -> Factor:
    """Σ scales[i] · factors[i], in fp32 at least; low-rank, with the sum of the ranks, if all are."""
    dtypes = (tensor.dtype for factor in factors for tensor in factor.tensors.values())
    dtype = reduce(torch.promote_types, dtypes, torch.float32)
    terms = [(factor, scale) for factor, scale in zip(factors, scales, strict=True) if scale] or [(factors[0], 0.0)]
    low_rank = all(factor.whole is None and factor.t is None for factor, _ in terms)
    rank = sum(factor.rank or 0 for factor, _ in terms)
    rows, columns, *kernel = factors[0].shape
    if low_rank and rank < min(rows, columns):
        a = torch.cat([factor.halves[0].to(dtype) * scale for factor, scale in terms], 1)  # (rows, Σ r)
        return Factor(a=a, b=torch.cat([factor.halves[1].to(dtype) for factor, _ in terms], 0))
    return Factor(reduce(torch.add, (factor.materialize(torch.float64) * scale for factor, scale in terms)).to(dtype))


def _gram(factors: Sequence[Factor]) -> Tensor:
    """The inner products of each with each, (t, t)."""
    gram = torch.zeros(len(factors), len(factors), dtype=torch.float64)
    for i, one in enumerate(factors):
        for j in range(i, len(factors)):
            gram[i, j] = gram[j, i] = factor_inner(one, factors[j])
    return gram


@torch.no_grad()
def factor_norm(factor: Factor | Tensor) -> float:
    """‖factor‖, in fp32 at least if whole; a low-rank or Tucker factor's in fp64, from Gram matrices of its rank.

    low-rank: ‖a b‖² = <aᵀa, b bᵀ>. Tucker: ‖W‖² = Σ over the kernel of <t, (a aᵀ) t (b bᵀ)>.

    >>> a, b = torch.randn(8, 2), torch.randn(2, 6)
    >>> abs(factor_norm(Factor(a=a, b=b)) - float((a @ b).norm())) < 1e-4
    True
    """
    factor = Factor.of(factor)
    if factor.whole is not None:
        compute = torch.promote_types(factor.whole.dtype, torch.float32)
        return float(torch.linalg.vector_norm(factor.whole, dtype=compute))
    a, b = (half.flatten(1).double() for half in factor.halves)
    if factor.t is None:
        squared = ((a.T @ a) * (b @ b.T)).sum()
    else:
        t = factor.t.flatten(2).double()
        inner = torch.einsum("ip,pjs->ijs", a @ a.T, t)
        squared = (t * torch.einsum("ijs,jq->iqs", inner, b @ b.T)).sum()
    # If the product almost vanishes, rounding can leave a square below 0.
    return float(squared.clamp_min(0).sqrt())


def kron_norm(w1: Factor | Tensor, w2: Factor | Tensor) -> float:
    """‖w1 ⊗ w2‖ = ‖w1‖ · ‖w2‖."""
    return factor_norm(w1) * factor_norm(w2)
