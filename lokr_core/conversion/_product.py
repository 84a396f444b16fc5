"""The Kronecker product that is nearest to a matrix, to a low-rank product or to rows of products.

C. Van Loan and N. Pitsianis, "Approximation with Kronecker Products" (1993): with the blocks of ΔW as its rows, a
Kronecker product is a matrix of rank 1, vec(W1) vec(W2)ᵀ, and the largest singular pair is the nearest one.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod, sqrt

import torch

from ..adapter import LoKrWeights
from ..kronecker import Factor, factorization
from ._blocks import Blocks, Nearest
from ._lanczos import top_pair
from ._rank import Keep
from ._svd import svd_of

NEAR_BEST = 0.99
"""The share of the best energy among several factors that the one with the fewest numbers has to reach."""


@torch.no_grad()
def nearest_product(blocks: Blocks, l: int, m: int, keep: Keep | None = None) -> Nearest:
    """The LoKr nearest to ΔW with a W1 of (l, m).

    keep: how much of W2 is kept; None: all of it, whole. With it W2 is low-rank where that has fewer numbers, and W1 is
        fitted again

    >>> from lokr_core.conversion import Dense
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
