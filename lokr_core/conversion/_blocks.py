"""ΔW by its blocks, as the search for the nearest Kronecker product needs it, and what that search finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..adapter import LoKrWeights

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
        """(l, m): the inner product of each block of the update with w2."""
        up = self.up.unflatten(0, (l, -1))  # (l, k, r)
        down = self.down.unflatten(1, (m, -1)).flatten(3) if self.down.ndim > 2 else self.down.unflatten(1, (m, -1))
        down = down.reshape(down.shape[0], m, -1)  # (r, m, n · kernel)
        inner = torch.einsum("lkr,kx->lrx", up, w2.flatten(1))  # (l, r, n · kernel)
        return torch.einsum("lrx,rmx->lm", inner, down)

    def with_w1(self, w1: Tensor) -> Tensor:
        """(k, n, *kernel): the sum of the update's blocks, each times its number of w1."""
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
