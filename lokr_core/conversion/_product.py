"""The Kronecker product that is nearest to a matrix, to a low-rank product or to rows of products.

C. Van Loan and N. Pitsianis, "Approximation with Kronecker Products" (1993): with the blocks of ΔW as its rows, a
Kronecker product is a matrix of rank 1, vec(W1) vec(W2)ᵀ, and the largest singular pair is the nearest one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod, sqrt
from typing import Protocol

import torch
from torch import Tensor

from ..adapter import LoKrWeights
from ..kronecker import Factor, factorization
from ._lanczos import top_pair
from ._rank import Keep
from ._svd import svd_of

NEAR_BEST = 0.99
"""The share of the best energy among several factors that the one with the fewest numbers has to reach."""

_DOUBLE = 1 << 23  # numbers up to which a matrix is rearranged in fp64


class Blocks(Protocol):
    """ΔW by its blocks, as ``nearest_product`` needs it for the sizes (l, m) of W1."""

    shape: tuple[int, ...]

    @property
    def squared_norm(self) -> float: ...

    def with_w2(self, w2: Tensor, l: int, m: int) -> Tensor:
        """<block [i, j] of ΔW, w2> for w2 (k, n, *kernel): (l, m)."""
        ...

    def with_w1(self, w1: Tensor) -> Tensor:
        """Σ w1[i, j] · block [i, j] of ΔW for w1 (l, m): (k, n, *kernel)."""
        ...

    @property
    def dtype(self) -> torch.dtype: ...


class Dense:
    """A matrix (out, in, *kernel), rearranged once for each size of W1.

    >>> Dense(torch.ones(8, 12)).with_w1(torch.ones(2, 3, dtype=torch.float64)).shape
    torch.Size([4, 4])
    """

    def __init__(self, delta: Tensor):
        self.dtype = torch.float64 if delta.numel() <= _DOUBLE else torch.float32
        self.shape = tuple(delta.shape)
        self._delta = delta.to(self.dtype)
        self._rearranged: tuple[tuple[int, int], Tensor] | None = None

    @property
    def squared_norm(self) -> float:
        return float(torch.linalg.vector_norm(self._delta, dtype=torch.float64)) ** 2

    def _rows(self, l: int, m: int) -> Tensor:
        """(l · m, k · n · kernel): each block as a row."""
        if self._rearranged is None or self._rearranged[0] != (l, m):
            blocks = self._delta.unflatten(1, (m, -1)).unflatten(0, (l, -1)).transpose(1, 2)  # (l, m, k, n, *kernel)
            self._rearranged = (l, m), blocks.reshape(l * m, -1)
        return self._rearranged[1]

    def with_w2(self, w2: Tensor, l: int, m: int) -> Tensor:
        return (self._rows(l, m) @ w2.flatten()).view(l, m)

    def with_w1(self, w1: Tensor) -> Tensor:
        out, columns, *kernel = self.shape
        (l, m) = w1.shape
        return (w1.flatten() @ self._rows(l, m)).view(out // l, columns // m, *kernel)


class LowRank:
    """up (out, r) @ down (r, in, *kernel), whose blocks are never built."""

    def __init__(self, up: Tensor, down: Tensor):
        self.dtype = torch.float64
        self.up, self.down = up.double(), down.double()
        self.shape = (up.shape[0], *down.shape[1:])

    @property
    def squared_norm(self) -> float:
        down = self.down.flatten(1)
        return max(0.0, float(((self.up.T @ self.up) * (down @ down.T)).sum()))

    def with_w2(self, w2: Tensor, l: int, m: int) -> Tensor:
        up = self.up.unflatten(0, (l, -1))  # (l, k, r)
        down = self.down.unflatten(1, (m, -1)).flatten(3) if self.down.ndim > 2 else self.down.unflatten(1, (m, -1))
        down = down.reshape(down.shape[0], m, -1)  # (r, m, n · kernel)
        inner = torch.einsum("lkr,kx->lrx", up, w2.flatten(1))  # (l, r, n · kernel)
        return torch.einsum("lrx,rmx->lm", inner, down)

    def with_w1(self, w1: Tensor) -> Tensor:
        (l, m), (out, columns, *kernel) = w1.shape, self.shape
        up = self.up.unflatten(0, (l, -1))  # (l, k, r)
        down = self.down.reshape(self.down.shape[0], m, -1)  # (r, m, n · kernel)
        inner = torch.einsum("lm,rmx->lrx", w1, down)
        return torch.einsum("lkr,lrx->kx", up, inner).view(out // l, columns // m, *kernel)


@dataclass(frozen=True, eq=False)
class Nearest:
    """A LoKr and the share of ‖ΔW‖² that it keeps."""

    weights: LoKrWeights
    energy: float


@torch.no_grad()
def nearest_product(blocks: Blocks, l: int, m: int, keep: Keep | None = None) -> Nearest:
    """The LoKr nearest to ΔW with a W1 of (l, m).

    keep: how much of W2 is kept; None: all of it, whole. With it W2 is low-rank where that has fewer numbers, and W1 is
        fitted again

    >>> w1, w2 = torch.randn(4, 3), torch.randn(5, 6)
    >>> found = nearest_product(Dense(torch.kron(w1, w2)), 4, 3)
    >>> round(found.energy, 6), torch.allclose(found.weights.delta(), torch.kron(w1, w2), atol=1e-5)
    (1.0, True)
    """
    out, columns, *kernel = blocks.shape
    sizes = (out // l, columns // m, *kernel)
    sigma, u, v = top_pair(
        lambda w2: blocks.with_w2(w2.view(sizes), l, m).flatten(),
        lambda w1: blocks.with_w1(w1.view(l, m)).flatten(),
        (l * m, prod(sizes)),
        torch.empty(0, dtype=blocks.dtype),
    )
    total = blocks.squared_norm
    root = sqrt(sigma)
    w1, w2 = u.view(l, m) * root, Factor((v.view(sizes) * root).float())
    if keep is not None and sigma:
        w2 = low_rank_w2(w2, keep)
        whole = w2.materialize(blocks.dtype)
        w1 = blocks.with_w2(whole, l, m) / whole.square().sum()
        sigma = float(w1.norm() * whole.norm())
    energy = min(1.0, sigma**2 / total) if total else 1.0
    return Nearest(LoKrWeights(Factor(w1.float()), w2), energy)


def low_rank_w2(w2: Factor, keep: Keep) -> Factor:
    """The factor at the rank that ``keep`` asks for; itself if that takes no fewer numbers."""
    found = svd_of(w2)
    rank = keep.rank_for(found.s)
    if rank * (w2.shape[0] + prod(w2.shape[1:])) >= w2.numel:
        return w2
    root = found.s[:rank].sqrt()
    b = (found.v[:rank] * root[:, None]).float().reshape(rank, *w2.shape[1:])
    return Factor(a=(found.u[:, :rank] * root).float(), b=b)


def candidates(shape: tuple[int, ...], factors: Iterable[int]) -> list[tuple[int, int]]:
    """The sizes (l, m) of W1 for a weight of ``shape`` by each of ``factors``, as LyCORIS and as PEFT splits them.

    >>> candidates((32, 768), [8, -1])
    [(4, 8), (8, 8), (4, 24)]
    """
    pairs = (
        (factorization(shape[0], factor, order)[0], factorization(shape[1], factor, order)[0])
        for factor in factors
        for order in ("lycoris", "peft")
    )
    return list(dict.fromkeys(pairs))


def best_product(blocks: Blocks, factors: Iterable[int], keep: Keep | None = None) -> Nearest:
    """Of the nearest products by each of ``factors`` the one with the fewest numbers among those that keep
    ``NEAR_BEST`` of the best energy."""
    found = [nearest_product(blocks, l, m, keep) for l, m in candidates(blocks.shape, factors)]
    return fewest(found)


def fewest(found: list[Nearest]) -> Nearest:
    """The one with the fewest numbers among those that keep ``NEAR_BEST`` of the best energy."""
    best = max(each.energy for each in found)
    near = [each for each in found if each.energy >= NEAR_BEST * best]
    return min(near, key=lambda each: each.weights.numel)
