"""The largest singular pair of a matrix that is known by its products with vectors (Lanczos, on A Aᵀ or Aᵀ A)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_STEPS, _CHECK_EVERY = 120, 4
_SETTLED = 1e-12  # of the eigenvalue: the residual at which the pair counts as found


def top_pair(
    times: Callable[[Tensor], Tensor],
    transposed_times: Callable[[Tensor], Tensor],
    shape: tuple[int, int],
    like: Tensor,
) -> tuple[float, Tensor, Tensor]:
    """(σ, u, v): the largest singular value of A (rows, cols), and its vectors.

    times: v (cols,) -> A v; transposed_times: u (rows,) -> Aᵀ u
    like: a tensor of the dtype and on the device to compute with

    Only vectors of the shorter side are kept. The start is random, and always the same.

    >>> a = torch.randn(30, 20, dtype=torch.float64)
    >>> sigma, u, v = top_pair(lambda x: a @ x, lambda x: a.T @ x, (30, 20), a)
    >>> abs(sigma - float(torch.linalg.svdvals(a)[0])) < 1e-8
    True
    """
    rows, cols = shape
    if rows > cols:
        sigma, v, u = top_pair(transposed_times, times, (cols, rows), like)
        return sigma, u, v
    u = _top_vector(lambda vector: times(transposed_times(vector)), rows, like)
    v = transposed_times(u)
    sigma = float(v.norm())
    return sigma, u, v / sigma if sigma else v


def _top_vector(times: Callable[[Tensor], Tensor], size: int, like: Tensor) -> Tensor:
    """The eigenvector of the largest eigenvalue of a matrix that is symmetric and not negative."""
    start = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(like)
    vectors = [start / start.norm()]
    alphas: list[float] = []
    betas: list[float] = []
    small = torch.finfo(like.dtype).eps
    for step in range(1, min(_STEPS, size) + 1):
        image = times(vectors[-1])
        alphas.append(float(vectors[-1] @ image))
        beta = _orthogonalized_(image, vectors)
        if beta <= small * max(map(abs, alphas)) or (step % _CHECK_EVERY == 0 and _settled(alphas, betas, beta)):
            break
        vectors.append(image.div_(beta))
        betas.append(beta)
    _, directions = torch.linalg.eigh(_tridiagonal(alphas, betas))
    found = torch.stack(vectors[: len(alphas)], 1) @ directions[:, -1].to(like)
    return found / found.norm()


def _orthogonalized_(vector: Tensor, others: list[Tensor]) -> float:
    """Remove the parts along ``others`` from ``vector`` in place, twice for rounding. Returns the norm of the rest."""
    basis = torch.stack(others, 1)
    for _ in range(2):
        vector -= basis @ (basis.T @ vector)
    return float(vector.norm())


def _tridiagonal(alphas: list[float], betas: list[float]) -> Tensor:
    """The matrix in the basis of the vectors so far: alphas on the diagonal, betas beside it."""
    beside = torch.tensor(betas[: len(alphas) - 1], dtype=torch.float64)
    diagonal = torch.diag(torch.tensor(alphas, dtype=torch.float64))
    return diagonal + torch.diag(beside, 1) + torch.diag(beside, -1)


def _settled(alphas: list[float], betas: list[float], beta: float) -> bool:
    values, directions = torch.linalg.eigh(_tridiagonal(alphas, betas))
    return beta * abs(float(directions[-1, -1])) <= _SETTLED * float(values[-1])
