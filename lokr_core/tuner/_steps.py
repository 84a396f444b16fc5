"""The products that make up (w1 ⊗ w2) x, one matrix after another, each with its own gradients.

An input is a grid: (rows m, cols n) for each position of a Linear's input, and for each of its images in a
convolution. A ``Step`` multiplies one axis of it by a matrix of one of the factors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..kronecker import cols_step, conv_step, ranks_step, rows_step


class Step:
    """One matrix's product with a grid z."""

    def __call__(self, z: Tensor, matrix: Tensor) -> Tensor:
        raise NotImplementedError

    def add_(self, y: Tensor, z: Tensor, matrix: Tensor, scale: float) -> None:
        """y += scale * (this step of z), for y a contiguous output, or one of a convolution, in z's dtype."""
        raise NotImplementedError

    def gradients(
        self, z: Tensor, matrix: Tensor, g: Tensor, of_z: bool, of_matrix: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of z and of the matrix, from that of the product."""
        raise NotImplementedError

    def add_gradient_(self, g_z: Tensor, matrix: Tensor, g: Tensor) -> None:
        """g_z += the gradient of z, for a Linear's first step; g_z contiguous, of an input's shape, in g's dtype."""
        self.add_(g_z, g, matrix.transpose(0, 1), 1)


class Rows(Step):
    """A Linear's: matrix (m', m) on axis 1 of z (positions, m, n)."""

    def __call__(self, z, matrix):
        # Not torch.matmul, whose result is laid out so that the next step would copy it.
        return torch.bmm(matrix.expand(z.size(0), -1, -1), z)

    def add_(self, y, z, matrix, scale):
        positions, rows = z.size(0), matrix.size(0)
        y.view(positions, rows, -1).baddbmm_(matrix.expand(positions, -1, -1), z, alpha=scale)

    def gradients(self, z, matrix, g, of_z, of_matrix):
        g_z = torch.bmm(matrix.transpose(0, 1).expand(g.size(0), -1, -1), g) if of_z else None
        return g_z, _outer(g, z) if of_matrix else None


class Cols(Step):
    """A Linear's: matrix (n', n) on axis 2 of z (positions, m, n), or one of w1's on that of (rank, positions, m)."""

    def __call__(self, z, matrix):
        positions, _, n = z.shape
        return torch.mm(z.view(-1, n), matrix.transpose(0, 1)).view(positions, -1, matrix.size(0))

    def add_(self, y, z, matrix, scale):
        y.view(-1, matrix.size(0)).addmm_(z.view(-1, z.size(2)), matrix.transpose(0, 1), alpha=scale)

    def gradients(self, z, matrix, g, of_z, of_matrix):
        k, n = matrix.shape
        rows = g.view(-1, k)
        g_z = torch.mm(rows, matrix).view(z.shape) if of_z else None
        return g_z, _outer_of_rows(rows, z.view(-1, n)) if of_matrix else None


class ToRanks(Step):
    """A Linear's: matrix (rank, n) on axis 2 of z (positions, m, n), to (rank, positions, m)."""

    def __call__(self, z, matrix):
        return ranks_step(z, matrix)

    def gradients(self, z, matrix, g, of_z, of_matrix):
        g_z = FromRanks()(g, matrix.transpose(0, 1)) if of_z else None
        return g_z, _outer_of_ranks(g, z) if of_matrix else None

    def add_gradient_(self, g_z, matrix, g):
        FromRanks().add_(g_z, g, matrix.transpose(0, 1), 1)


class FromRanks(Step):
    """``ToRanks`` the other way: matrix (k, rank) on axis 0 of z (rank, positions, l), to (positions, l, k)."""

    def __call__(self, z, matrix):
        ranks, positions, l = z.shape
        return torch.mm(z.view(ranks, -1).transpose(0, 1), matrix.transpose(0, 1)).view(positions, l, -1)

    def add_(self, y, z, matrix, scale):
        ranks = z.view(z.size(0), -1)
        y.view(-1, matrix.size(0)).addmm_(ranks.transpose(0, 1), matrix.transpose(0, 1), alpha=scale)

    def gradients(self, z, matrix, g, of_z, of_matrix):
        g_z = ToRanks()(g, matrix.transpose(0, 1)) if of_z else None
        return g_z, _outer_of_ranks(z, g).transpose(0, 1) if of_matrix else None


class ConvRows(NamedTuple("ConvRows", [("groups", int)]), Step):
    """Matrix (m', m) on axis 1 of z (batch * groups, m, n, *size); with groups, each has its own rows of matrix."""

    def __call__(self, z, matrix):
        return rows_step(z, matrix, self.groups)

    def add_(self, y, z, matrix, scale):
        if self.groups > 1:
            y.add_(self(z, matrix).view(y.shape), alpha=scale)
            return
        z = z.flatten(2)
        y.view(len(z), len(matrix), -1).baddbmm_(matrix.expand(len(z), *matrix.shape), z, alpha=scale)

    def gradients(self, z, matrix, g, of_z, of_matrix):
        if self.groups == 1:
            g_z = rows_step(g, matrix.T, 1) if of_z else None
            return g_z, _outer(g.flatten(2), z.flatten(2)) if of_matrix else None
        groups, shape = self.groups, z.shape
        parts, g = matrix.unflatten(0, (groups, -1)), g.flatten(2).unflatten(0, (-1, groups))
        z = z.flatten(2).unflatten(0, (-1, groups))
        g_z = torch.matmul(parts.mT, g).reshape(shape) if of_z else None
        return g_z, torch.matmul(g, z.mT).sum(0).flatten(0, 1) if of_matrix else None


class ConvCols(Step):
    """Matrix (n', n) on axis 2 of z (batch, m, n, *size)."""

    def __call__(self, z, matrix):
        return cols_step(z, matrix)

    def add_(self, y, z, matrix, scale):
        z = z.flatten(3).flatten(0, 1)
        y.view(len(z), len(matrix), -1).baddbmm_(matrix.expand(len(z), *matrix.shape), z, alpha=scale)

    def gradients(self, z, matrix, g, of_z, of_matrix):
        g_z = cols_step(g, matrix.T) if of_z else None
        return g_z, _outer(g.flatten(0, 1).flatten(2), z.flatten(0, 1).flatten(2)) if of_matrix else None


class Conv(NamedTuple("Conv", [("stride", tuple), ("padding", tuple), ("dilation", tuple)]), Step):
    """The convolution with matrix (n', n, *kernel) on axis 2 of z (batch, m, n, *size)."""

    def __call__(self, z, matrix):
        return conv_step(z, matrix, self._asdict())

    def add_(self, y, z, matrix, scale):
        y.add_(self(z, matrix).view(y.shape), alpha=scale)

    def gradients(self, z, matrix, g, of_z, of_matrix):
        axes = len(self.stride)
        which = [of_z, of_matrix, False]
        rest = (None, self.stride, self.padding, self.dilation, False, [0] * axes, 1, which)
        g_z, g_matrix, _ = torch.ops.aten.convolution_backward(g.flatten(0, 1), z.flatten(0, 1), matrix, *rest)
        return g_z.unflatten(0, z.shape[:2]) if of_z else None, g_matrix if of_matrix else None


def _outer(g: Tensor, z: Tensor) -> Tensor:
    """Σ over the batch of g zᵀ: g (batch, p, q), z (batch, r, q) -> (p, r)."""
    p, q, r = *g.shape[1:], z.shape[1]
    if p * r <= 2 * (p + r) * q:
        return torch.bmm(g, z.transpose(1, 2)).sum(0)
    return torch.einsum("bpq,brq->pr", g, z)  # as one product, of copies


def _outer_of_rows(g: Tensor, z: Tensor) -> Tensor:
    """gᵀ z: g (positions, p), z (positions, r) -> (p, r). Measured: the shorter side in front is twice as fast."""
    if g.size(1) <= z.size(1):
        return torch.mm(g.transpose(0, 1), z)
    return torch.mm(z.transpose(0, 1), g).transpose(0, 1)


def _outer_of_ranks(z: Tensor, x: Tensor) -> Tensor:
    """Σ over positions and rows: z (rank, positions, m), x (positions, m, n) -> (rank, n)."""
    return torch.mm(z.view(z.size(0), -1), x.view(-1, x.size(2)))
