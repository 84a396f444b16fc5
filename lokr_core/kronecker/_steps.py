"""The steps of a chain: how one matrix of a factor acts on an input seen as a grid, in place, and its gradients.

A chain's plan is the order of its steps. A Linear's grid is (positions, m, n), a convolution's
(batch * groups, m, n, *size); see _chain.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

F_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
# The most numbers of an input that one product with few rows reads: larger inputs are multiplied at half the speed
# (measured as the constants of _numerics.py).
FEW_ROWS = 3 << 18

T = TypeVar("T")
Pair = tuple[Tensor | None, Tensor | None]


class Step:
    """The product of one matrix with one axis of a grid z."""

    def __call__(self, z: Tensor, matrix: Tensor) -> Tensor:
        raise NotImplementedError

    def in_chunks(self, z: Tensor, matrix: Tensor, budget: int) -> Tensor:
        """This step of z; a CPU's convolution does about ``budget`` numbers at a time."""
        return self(z, matrix)

    def add_(self, y: Tensor, z: Tensor, matrix: Tensor, scale: float) -> None:
        """y += scale * (this step of z), as the last step: y is an output, (positions, l*k) or (batch, l*k, *size)."""
        raise NotImplementedError

    def gradients(self, z: Tensor, matrix: Tensor, g: Tensor, of_z: bool, of_matrix: bool) -> Pair:
        """The gradients of z and of the matrix (None if not asked for) from g, the product's."""
        raise NotImplementedError

    def add_gradient_(self, g_z: Tensor, matrix: Tensor, g: Tensor) -> None:
        """g_z += the gradient of z, as a Linear's first step: g_z is an input's, (positions, m*n), contiguous."""
        self.add_(g_z, g, matrix.T, 1)


class Rows(Step):
    """A Linear's matrix of w1: (p, m) on axis 1 of z (positions, m, n)."""

    def __call__(self, z: Tensor, matrix: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return torch.matmul(matrix, z)  # (positions, p, n), folded: the matrix's gradient is one product
        return torch.bmm(matrix.expand(z.size(0), -1, -1), z)  # (positions, p, n), contiguous, as matmul's is not

    def add_(self, y: Tensor, z: Tensor, matrix: Tensor, scale: float) -> None:
        positions, l = z.size(0), matrix.size(0)
        grid = y.view(positions, l, -1)  # (positions, l, k)
        grid.baddbmm_(matrix.expand(positions, -1, -1), z, alpha=scale)  # (l, m) @ (m, k) for each position

    def gradients(self, z: Tensor, matrix: Tensor, g: Tensor, of_z: bool, of_matrix: bool) -> Pair:
        g_z = self(g, matrix.T) if of_z else None  # (positions, m, n)
        return g_z, _outer(g, z) if of_matrix else None  # (p, m)


class Cols(Step):
    """A Linear's matrix of w2: (p, n) on the last axis of z (positions, m, n); w1's on that of (rank, positions, m)."""

    def __call__(self, z: Tensor, matrix: Tensor) -> Tensor:
        return F.linear(z, matrix)  # (positions, m, p)

    def add_(self, y: Tensor, z: Tensor, matrix: Tensor, scale: float) -> None:
        k, turned = matrix.size(0), matrix.T  # (n, k)
        if y.is_contiguous():
            y.view(-1, k).addmm_(z.reshape(-1, z.size(2)), turned, alpha=scale)  # (positions * l, n) @ (n, k)
        else:
            _add_columns_(y, z.transpose(0, 1), turned, scale)

    def gradients(self, z: Tensor, matrix: Tensor, g: Tensor, of_z: bool, of_matrix: bool) -> Pair:
        p, n = matrix.shape
        rows = g.reshape(-1, p)  # (positions * m, p)
        g_z = torch.mm(rows, matrix).view(z.shape) if of_z else None  # (positions, m, n)
        return g_z, _outer_of_rows(rows, z.reshape(-1, n)) if of_matrix else None  # (p, n)


class ToRanks(Step):
    """A Linear's b of w2, of few ranks, as the first step: (rank, n) on axis 2 of z (positions, m, n), with the rank in
    front. A product reads at most ``FEW_ROWS`` numbers of z on a CPU."""

    def __call__(self, z: Tensor, matrix: Tensor) -> Tensor:
        positions, m, n = z.shape
        rows = z.reshape(-1, n)  # (positions * m, n)
        if z.is_cpu and z.numel() > FEW_ROWS:
            parts = rows.chunk(-(-z.numel() // FEW_ROWS))
            ranks = torch.cat([torch.mm(matrix, part.T) for part in parts], 1)
        else:
            ranks = torch.mm(matrix, rows.T)  # (rank, positions * m)
        return ranks.view(matrix.size(0), positions, m)  # (rank, positions, m)

    def gradients(self, z: Tensor, matrix: Tensor, g: Tensor, of_z: bool, of_matrix: bool) -> Pair:
        g_z = FromRanks()(g, matrix.T) if of_z else None  # (positions, m, n)
        return g_z, _outer_of_ranks(g, z) if of_matrix else None  # (rank, n)

    def add_gradient_(self, g_z: Tensor, matrix: Tensor, g: Tensor) -> None:
        FromRanks().add_(g_z, g, matrix.T, 1)


class FromRanks(Step):
    """The inverse of ``ToRanks`` for a of w2, as the last step: (k, rank) on axis 0 of z (rank, positions, l)."""

    def __call__(self, z: Tensor, matrix: Tensor) -> Tensor:
        ranks = z.reshape(z.size(0), -1)  # (rank, positions * l)
        rows = torch.mm(ranks.T, matrix.T)  # (positions * l, k)
        return rows.view(z.size(1), z.size(2), matrix.size(0))  # (positions, l, k)

    def add_(self, y: Tensor, z: Tensor, matrix: Tensor, scale: float) -> None:
        turned = matrix.T  # (rank, k)
        if y.is_contiguous():
            ranks = z.reshape(z.size(0), -1).T  # (positions * l, rank)
            y.view(-1, matrix.size(0)).addmm_(ranks, turned, alpha=scale)
        else:
            _add_columns_(y, z.permute(2, 1, 0).contiguous(), turned, scale)

    def gradients(self, z: Tensor, matrix: Tensor, g: Tensor, of_z: bool, of_matrix: bool) -> Pair:
        g_z = ToRanks()(g, matrix.T) if of_z else None  # (rank, positions, l)
        return g_z, _outer_of_ranks(z, g).T if of_matrix else None  # (k, rank)


@dataclass(frozen=True)
class Pointwise(Step):
    """A convolution's matrix (p, q) on an ``axis`` of z (batch * groups, m, n, *size): 1 for w1's, 2 for w2's. With
    groups, each has its own rows of the matrix (axis 1 alone)."""

    axis: int
    groups: int = 1

    def _flat(self, z: Tensor) -> Tensor:
        """z as (all axes before, q, all axes behind)."""
        return z.flatten(2) if self.axis == 1 else z.flatten(3).flatten(0, 1)

    def __call__(self, z: Tensor, matrix: Tensor) -> Tensor:
        flat = self._flat(z)
        if self.groups == 1:
            y = torch.matmul(matrix, flat)  # (before, p, behind)
        else:
            blocks = matrix.unflatten(0, (self.groups, -1))  # (groups, p / groups, q)
            y = torch.matmul(blocks, flat.unflatten(0, (-1, self.groups))).flatten(0, 1)
        y = y.unflatten(2, z.shape[self.axis + 1 :])
        return y if self.axis == 1 else y.unflatten(0, z.shape[:2])

    def add_(self, y: Tensor, z: Tensor, matrix: Tensor, scale: float) -> None:
        if self.groups > 1:
            update = self(z, matrix)
            y.view(update.shape).add_(update, alpha=scale)
        elif self.axis == 1 or y.is_contiguous():
            flat = self._flat(z)  # (before, q, behind)
            into = y.view(len(flat), len(matrix), -1)  # (batch, l, k * size) or (batch * l, k, size)
            into.baddbmm_(matrix.expand(len(flat), -1, -1), flat, alpha=scale)
        else:  # some channels of a wider y
            for sample, grid in zip(y, z, strict=True):
                self.add_(sample[None], grid[None], matrix, scale)

    def gradients(self, z: Tensor, matrix: Tensor, g: Tensor, of_z: bool, of_matrix: bool) -> Pair:
        if self.groups == 1:
            g_z = self(g, matrix.T) if of_z else None
            return g_z, _outer(self._flat(g), self._flat(z)) if of_matrix else None  # (p, q)
        blocks = matrix.unflatten(0, (self.groups, -1))  # (groups, p / groups, q)
        g, flat = (t.flatten(2).unflatten(0, (-1, self.groups)) for t in (g, z))  # (batch, groups, p / groups or q, *)
        g_z = torch.matmul(blocks.mT, g).reshape(z.shape) if of_z else None
        return g_z, torch.matmul(g, flat.mT).sum(0).flatten(0, 1) if of_matrix else None  # (p, q)


@dataclass(frozen=True)
class Conv(Step):
    """The convolution with matrix (p, n, *kernel) on axis 2 of z (batch * groups, m, n, *size)."""

    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]

    def _images(self, images: Tensor, matrix: Tensor) -> Tensor:
        """(images, n, *size) -> (images, p, *size')."""
        conv = F_CONV[matrix.ndim - 2]
        return conv(images, matrix, None, self.stride, self.padding, self.dilation)

    def __call__(self, z: Tensor, matrix: Tensor) -> Tensor:
        return self._images(z.flatten(0, 1), matrix).unflatten(0, z.shape[:2])  # (batch * groups, m, p, *size')

    def in_chunks(self, z: Tensor, matrix: Tensor, budget: int) -> Tensor:
        flat = z.flatten(0, 1)  # (batch * groups * m, n, *size)
        count = at_a_time(flat[0].numel(), len(flat), budget)
        if not z.is_cpu or count == len(flat):
            return self(z, matrix)
        return torch.cat([self._images(part, matrix) for part in flat.split(count)]).unflatten(0, z.shape[:2])

    def add_(self, y: Tensor, z: Tensor, matrix: Tensor, scale: float) -> None:
        update = self(z, matrix)  # (batch * groups, l / groups, k, *size')
        y.view(update.shape).add_(update, alpha=scale)

    def gradients(self, z: Tensor, matrix: Tensor, g: Tensor, of_z: bool, of_matrix: bool) -> Pair:
        g_z, g_matrix, _ = torch.ops.aten.convolution_backward(
            g.flatten(0, 1), z.flatten(0, 1), matrix, None, self.stride, self.padding, self.dilation,
            transposed=False, output_padding=[0] * len(self.stride), groups=1, output_mask=[of_z, of_matrix, False],
        )  # fmt: skip
        return g_z.unflatten(0, z.shape[:2]) if of_z else None, g_matrix if of_matrix else None


def _add_columns_(y: Tensor, z: Tensor, turned: Tensor, scale: float) -> None:
    """y (positions, l*k), rows of a wider tensor, += scale * z @ turned, for z (l, positions, n) and turned (n, k)."""
    l, k = z.size(0), turned.size(1)
    columns = y.unflatten(1, (l, k)).transpose(0, 1)  # (l, positions, k): each a matrix with y's row stride
    columns.baddbmm_(z, turned.expand(l, -1, -1), alpha=scale)


def _outer(g: Tensor, z: Tensor) -> Tensor:
    """Σ over the batch of g zᵀ: g (batch, p, q), z (batch, r, q) -> (p, r)."""
    p, q, r = g.shape[1], g.shape[2], z.shape[1]
    if p * r <= 2 * (p + r) * q:
        return torch.bmm(g, z.transpose(1, 2)).sum(0)
    return torch.einsum("bpq,brq->pr", g, z)  # one product of copies


def _outer_of_rows(g: Tensor, z: Tensor) -> Tensor:
    """gᵀ z: g (positions, p), z (positions, r) -> (p, r). Measured: the shorter side in front is twice as fast."""
    if g.size(1) <= z.size(1):
        return torch.mm(g.T, z)
    return torch.mm(z.T, g).T


def _outer_of_ranks(z: Tensor, x: Tensor) -> Tensor:
    """Σ over positions and rows: z (rank, positions, m), x (positions, m, n) -> (rank, n)."""
    return torch.mm(z.reshape(z.size(0), -1), x.reshape(-1, x.size(2)))


def at_a_time(each: int, count: int, budget: int) -> int:
    """How many of ``count`` things with ``each`` numbers make up parts of equal size and about ``budget`` numbers."""
    parts = -(-count * each // budget)
    return max(1, -(-count // parts)) if parts > 1 else count


class Plan(NamedTuple):
    """In which order the matrices of both factors act, and each by which step (see ``linear_plan``, ``conv_plan``)."""

    order: str  # of each step the factor, "1" or "2", whose next matrix acts
    steps: tuple[Step, ...]
    of_input: tuple[int, int]  # the grid (m, n)
    of_output: tuple[int, int]  # the grid (l / groups, k)
    groups: int  # 0 for a Linear
    widest: int  # numbers of a Linear's largest intermediate, for each position

    def interleave(self, first: Sequence[T], second: Sequence[T]) -> list[T]:
        """What belongs to w1's and to w2's matrices (themselves, their names), in the order in which they act."""
        todo1, todo2 = iter(first), iter(second)
        return [next(todo1 if factor == "1" else todo2) for factor in self.order]

    def apart(self, matrices: Sequence[T]) -> tuple[list[T], list[T]]:
        """w1's and w2's of what is in the order in which it acts: the inverse of ``interleave``."""
        pairs = list(zip(self.order, matrices, strict=True))
        return [one for factor, one in pairs if factor == "1"], [one for factor, one in pairs if factor == "2"]

    def split(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """x (..., channels) as (positions, *grid), or (batch, channels, *size) as (batch * groups, *grid, *size)."""
        if self.groups:
            return x.reshape(len(x) * self.groups, *grid, *x.shape[2:])
        return x.reshape(-1, *grid)

    def join(self, z: Tensor, x: Tensor) -> Tensor:
        """The output for the input ``x`` that the grid ``z`` is: (..., l*k) or (batch, l*k, *size')."""
        channels = self.of_output[0] * self.of_output[1]
        if self.groups:
            return z.reshape(len(x), self.groups * channels, *z.shape[3:])
        return z.reshape(*x.shape[:-1], channels)
