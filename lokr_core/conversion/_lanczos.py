"""The largest singular pair of a matrix that is known by its products with vectors (Golub and Kahan)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_STEPS, _CHECK_EVERY = 120, 4
_SETTLED = 1e-11  # of the singular value: the residual at which the pair counts as found


def top_pair(
    times: Callable[[Tensor], Tensor], transposed_times: Callable[[Tensor], Tensor], start: Tensor
) -> tuple[float, Tensor, Tensor]:
    """(σ, u, v): the largest singular value of A, and its vectors.

    times: v (cols,) -> A v; transposed_times: u (rows,) -> Aᵀ u
    start: any vector (cols,) that is not orthogonal to v, in the dtype and on the device to compute with

    >>> a = torch.randn(30, 20, dtype=torch.float64)
    >>> sigma, u, v = top_pair(lambda x: a @ x, lambda x: a.T @ x, torch.ones(20, dtype=torch.float64))
    >>> abs(sigma - float(torch.linalg.svdvals(a)[0])) < 1e-8
    True
    """
    rows: list[Tensor] = []
    cols: list[Tensor] = [start / start.norm()]
    alphas: list[float] = []
    betas: list[float] = []
    small = torch.finfo(start.dtype).eps
    for step in range(1, _STEPS + 1):
        u = times(cols[-1])
        alpha = _orthogonalized_(u, rows)
        if alpha <= small * max(alphas, default=0.0) or alpha == 0:
            break
        rows.append(u.div_(alpha))
        alphas.append(alpha)
        v = transposed_times(u)
        beta = _orthogonalized_(v, cols)
        if beta <= small * max(alphas) or (step % _CHECK_EVERY == 0 and _settled(alphas, betas, beta)):
            break
        cols.append(v.div_(beta))
        betas.append(beta)
    if not alphas:
        return 0.0, torch.zeros_like(times(cols[0])), cols[0]
    left, values, right = torch.linalg.svd(_bidiagonal(alphas, betas), full_matrices=False)
    u = torch.stack(rows, 1) @ left[:, 0].to(start)
    v = torch.stack(cols, 1) @ right[0].to(start)
    return float(values[0]), u / u.norm(), v / v.norm()


def _orthogonalized_(vector: Tensor, others: list[Tensor]) -> float:
    """Remove the parts along ``others`` from ``vector`` in place, twice for rounding. Returns the norm of the rest."""
    if others:
        basis = torch.stack(others, 1)
        for _ in range(2):
            vector -= basis @ (basis.T @ vector)
    return float(vector.norm())


def _bidiagonal(alphas: list[float], betas: list[float]) -> Tensor:
    """uᵀ A v of the vectors so far: alphas on the diagonal, betas right of it, the last of them in a column of its own
    if v has one vector more than u."""
    matrix = torch.zeros(len(alphas), max(len(alphas), len(betas) + 1), dtype=torch.float64)
    matrix.diagonal().copy_(torch.tensor(alphas, dtype=torch.float64))
    matrix.diagonal(1)[: len(betas)] = torch.tensor(betas, dtype=torch.float64)
    return matrix


def _settled(alphas: list[float], betas: list[float], beta: float) -> bool:
    left, values, _ = torch.linalg.svd(_bidiagonal(alphas, betas))
    return beta * abs(float(left[-1, 0])) <= _SETTLED * float(values[0])
