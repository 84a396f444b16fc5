"""The singular value decomposition of W1 ⊗ W2, from those of its factors.

W1 = U1 S1 V1 and W2 = U2 S2 V2 give W1 ⊗ W2 = (U1 ⊗ U2) (S1 ⊗ S2) (V1 ⊗ V2): the singular values are all products
σ1 · σ2, and the best approximation of a given rank (Eckart-Young) keeps the largest of them. A convolution's kernel
stays in the columns of W2, which is how a LoCon holds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..adapter import LoKrWeights
from ..kronecker import Factor

# A singular value below this share of the largest is rounding.
_ROUNDING = 1e-13


@dataclass(frozen=True, eq=False)
class Svd:
    """The decomposition of one matrix: u (rows, r), s (r,) in descending order, v (r, cols), in fp64."""

    u: Tensor
    s: Tensor
    v: Tensor


@torch.no_grad()
def svd_of(factor: Factor) -> Svd:
    """The decomposition of a factor as the matrix (rows, cols · kernel).

    A low-rank or Tucker factor is not built whole if its rank is below both sides.

    >>> found = svd_of(Factor(a=torch.randn(6, 2), b=torch.randn(2, 4, 3, 3)))
    >>> found.u.shape, found.s.shape, found.v.shape
    (torch.Size([6, 2]), torch.Size([2]), torch.Size([2, 36]))
    """
    halves = _halves(factor)
    if halves is None or halves[0].shape[1] >= min(halves[0].shape[0], halves[1].shape[1]):
        u, s, v = torch.linalg.svd(factor.materialize(torch.float64).flatten(1), full_matrices=False)
    else:
        left, a = torch.linalg.qr(halves[0])  # (rows, r), (r, r)
        right, b = torch.linalg.qr(halves[1].T)  # (cols, r), (r, r)
        u, s, v = torch.linalg.svd(a @ b.T, full_matrices=False)
        u, v = left @ u, v @ right.T
    kept = max(1, int((s > float(s[0]) * _ROUNDING).sum()))
    return Svd(u[:, :kept], s[:kept], v[:kept])


def _halves(factor: Factor) -> tuple[Tensor, Tensor] | None:
    """(rows, r) and (r, cols · kernel) whose product is the factor, in fp64. Returns None for a whole factor."""
    if factor.whole is not None:
        return None
    a, b = (half.double() for half in factor.halves)
    if factor.t is None:
        return a, b.flatten(1)
    return a.T, torch.einsum("ij...,jq->iq...", factor.t.double(), b).flatten(1)


@dataclass(frozen=True, eq=False)
class KronSvd:
    """The decomposition of an update, its scaling included, by those of its factors.

    shape: (out, in, *kernel) of the update

    >>> weights = LoKrWeights(Factor(torch.randn(4, 3)), Factor(torch.randn(5, 6)), scaling=0.5)
    >>> found = KronSvd.of(weights)
    >>> up, down = found.truncated(found.rank)
    >>> torch.allclose(up @ down, weights.delta(), atol=1e-5)
    True
    """

    first: Svd
    second: Svd
    scaling: float
    shape: tuple[int, ...]

    @classmethod
    def of(cls, weights: LoKrWeights) -> KronSvd:
        """The decomposition of ``weights``; DoRA is not in it."""
        w1 = weights.w1.without_kernel()
        return cls(svd_of(w1), svd_of(weights.w2), weights.scaling, weights.shape)

    @cached_property
    def _products(self) -> Tensor:
        """|scaling| σ1 σ2, (r1, r2)."""
        return self.first.s[:, None] * self.second.s * abs(self.scaling)

    @cached_property
    def values(self) -> Tensor:
        """All singular values that are not rounding, in descending order, in fp64."""
        return self._products.flatten().sort(descending=True).values

    @property
    def rank(self) -> int:
        """The rank of the update, rounding aside."""
        return self.values.numel()

    @torch.no_grad()
    def truncated(self, rank: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """The best approximation of that rank: up (out, r) and down (r, in, *kernel), r being ``rank`` or less.

        Both carry the roots of the singular values, so that they have one size.
        """
        values, flat = self._products.flatten().topk(min(rank, self.rank))
        i, j = flat // self.second.s.numel(), flat % self.second.s.numel()
        root = values.sqrt()
        up = _columns(self.first.u[:, i], self.second.u[:, j]) * root * (-1 if self.scaling < 0 else 1)  # (l·k, r)
        down = _columns(self.first.v[i].T, self.second.v[j].T).T * root[:, None]  # (r, m · n · kernel)
        return up.to(dtype), down.to(dtype).reshape(len(root), *self.shape[1:])


def _columns(one: Tensor, other: Tensor) -> Tensor:
    """Each column of ``one`` (l, r) ⊗ the same column of ``other`` (k, r): (l·k, r)."""
    return (one[:, None] * other[None]).reshape(-1, one.shape[1])


def energy_of(values: Tensor, rank: int) -> float:
    """The share of ‖ΔW‖² in the ``rank`` largest singular ``values``; 1 for an update of zeros.

    >>> energy_of(torch.tensor([2.0, 1.0]), 1)
    0.8
    """
    squares = values.double().square()
    total = float(squares.sum())
    return 1.0 if not total else 1.0 if rank >= len(squares) else float(squares[:rank].sum()) / total
