"""y += (w1 ⊗ w2) x, factored: the last step of the chain is a matrix product that accumulates, so the result itself is
never held.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from ._apply import CONV, apply_kron, check_input, cols_step, conv_step, ranks_step, ready, rows_step
from ._chain import interleaved, ordered, rank_in_front
from ._factor import Factor

# Numbers an intermediate may have before the work is done by parts. On a CPU parts leave no new memory to be had from
# the system at each call; of a Linear, a few MiB were fastest. A convolution turns its weight and images into a layout
# of its own at each call, so fewer and larger parts are faster, none below a quarter of the output. On other devices it
# is the calls that cost.
_LINEAR, _CONV, _ELSEWHERE = 3 << 19, 1 << 20, 1 << 25


@torch.no_grad()
def accumulate_kron_(
    y: Tensor,
    x: Tensor,
    w1: Factor | Tensor,
    w2: Factor | Tensor,
    scale: float = 1.0,
    *,
    stride: int | tuple[int, ...] = 1,
    padding: int | str | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> Tensor:
    """``y += scale * (w1 ⊗ w2) x`` in place; returns ``y``. Shapes and errors as for ``apply_kron``.

    y: (..., l*k) or (batch, l*k, *size'), any strides: a slice of the last axis, or of the channels, is fine.
    Computed in x's dtype. Not recorded by autograd. Extra memory is a quarter of y's or a few MiB, whichever
    is more, at most; for a factored w2 far less.

    >>> x, w1, w2, y = torch.randn(5, 6), torch.randn(4, 2), torch.randn(2, 3), torch.zeros(5, 8)
    >>> torch.allclose(accumulate_kron_(y, x, w1, w2, 0.5), apply_kron(x, w1, w2, 0.5), atol=1e-5)
    True
    """
    w1, w2 = ready(x, w1, w2)
    kernel = w2.kernel
    if not kernel:
        LinearSum(w1, w2)(y, x, scale)
        return y
    check_input(x, 1, groups * w1.shape[1] * w2.shape[1], w1, w2, lenient=True)
    by_parts = y.dtype == x.dtype and y.device == x.device and x.numel() and y.numel()
    conv = {"stride": stride, "padding": padding, "dilation": dilation}
    if by_parts and groups == 1 and y.ndim == x.ndim == len(kernel) + 2 and _channels_first(y):
        _accumulate_conv(y, x, w1, w2, scale, conv)
        return y
    return y.add_(apply_kron(x, w1, w2, scale, **conv, groups=groups))


class LinearSum:
    """``accumulate_kron_`` for a Linear, planned once for factors that stay.

    w1 (l, m), w2 (k, n): without a kernel, on the device and in the dtype of the inputs it is called with.

    >>> x, w1, w2, y = torch.randn(5, 6), torch.randn(4, 2), torch.randn(2, 3), torch.zeros(5, 8)
    >>> LinearSum(Factor(w1), Factor(w2))(y, x, 0.5)
    >>> torch.allclose(y, apply_kron(x, w1, w2, 0.5), atol=1e-5)
    True
    """

    __slots__ = ("channels", "grids", "in_front", "out", "steps", "w1", "w2", "widest")

    def __init__(self, w1: Factor, w2: Factor):
        (l, m), (k, n) = w1.shape, w2.shape
        self.w1, self.w2, self.grids = w1, w2, (l, m, k, n)
        self.channels, self.out = m * n, l * k
        chain1, chain2, _, order = ordered(w1, w2, None)
        self.in_front = rank_in_front(order, w2)
        self.steps: list[tuple[bool, Tensor, Tensor]] = []  # (whether it is one of w1's, the matrix, turned round)
        self.widest = 0  # numbers of the largest intermediate, for each position
        for which, matrix in zip(order, interleaved(order, chain1, chain2), strict=True):
            if self.steps:
                self.widest = max(self.widest, m * n)
            m, n = (len(matrix), n) if which == "1" else (m, len(matrix))
            self.steps.append((which == "1", matrix, matrix.T))

    def __call__(self, y: Tensor, x: Tensor, scale: float = 1.0) -> None:
        """y (..., l*k) += scale * (w1 ⊗ w2) x, for x (..., m*n). Errors as for ``apply_kron``.

        Autograd is to be off, or none of the tensors to need a gradient.
        """
        rows = None
        if x.ndim == 0 or x.size(-1) != self.channels:
            check_input(x, -1, self.channels, self.w1, self.w2)
        if y.dtype == x.dtype and y.device == x.device and y.shape == (*x.shape[:-1], self.out) and x.numel():
            rows = _as_rows(y)
        if rows is None:
            y.add_(apply_kron(x, self.w1, self.w2, scale))
            return
        x = x.reshape(-1, self.channels)
        count = x.size(0)
        at_a_time = _at_a_time(y, self.widest, count, _LINEAR)
        if at_a_time == count:
            self._add(rows, x, scale)
            return
        for at in range(0, count, at_a_time):
            self._add(rows[at : at + at_a_time], x[at : at + at_a_time], scale)

    def _add(self, y: Tensor, x: Tensor, scale: float) -> None:
        """y (rows, l*k), x (rows, m*n)."""
        l, m, k, n = self.grids
        z = x.reshape(-1, m, n)
        if self.in_front and y.is_contiguous():
            z = ranks_step(z, self.steps[0][1])
            for _, _, turned in self.steps[1:-1]:
                z = torch.matmul(z, turned)
            y.view(-1, k).addmm_(z.view(z.size(0), -1).T, self.steps[-1][2], alpha=scale)
            return
        for of_w1, matrix, turned in self.steps[:-1]:
            z = torch.matmul(matrix, z) if of_w1 else torch.matmul(z, turned)
        of_w1, matrix, turned = self.steps[-1]
        if of_w1:
            y.unflatten(1, (l, k)).baddbmm_(matrix.expand(z.size(0), l, -1), z, alpha=scale)
        elif y.is_contiguous():
            y.view(-1, k).addmm_(z.reshape(z.size(0) * l, -1), turned, alpha=scale)
        else:
            # Rows of a wider y: the l blocks of columns one after another, each a matrix with y's row stride.
            y = y.unflatten(1, (l, k)).transpose(0, 1)
            y.baddbmm_(z.transpose(0, 1), turned.expand(l, *turned.shape), alpha=scale)


def _as_rows(y: Tensor) -> Tensor | None:
    """y (..., out) as a view (rows, out), None where its strides do not allow it."""
    try:
        return y.view(-1, y.shape[-1])
    except RuntimeError:
        return None


def _channels_first(y: Tensor) -> bool:
    """Whether each sample's positions lie densely one after another, channel after channel."""
    return y[0].is_contiguous()


def _at_a_time(y: Tensor, each: int, count: int, budget: int) -> int:
    """How many of ``count`` things are worked on at a time, where each of them has ``each`` numbers of intermediate."""
    if y.device.type != "cpu":
        budget = max(_ELSEWHERE, y.numel() // 4)
    parts = -(-count * each // budget)
    return max(1, -(-count // parts)) if parts > 1 else count


def _accumulate_conv(y: Tensor, x: Tensor, w1: Factor, w2: Factor, scale: float, conv: dict) -> None:
    """y (batch, l*k, *size') += scale * conv(x, w1 ⊗ w2) for x (batch, m*n, *size), without groups."""
    (l, m), (k, n) = w1.shape, w2.shape[:2]
    batch, _, *size = x.shape
    x = x.reshape(batch, m, n, *size)
    chain1, chain2, kernels, order = ordered(w1, w2, conv)
    samples, images = batch, m
    if order[-1] == "1" and order.count("1") == 1:
        # All of w2 acts before w1 does in one step, so the intermediate is m images of k channels: a sum over parts.
        image, budget = k * prod(y.shape[2:]), max(_CONV, y.numel() // 4)
        samples = _at_a_time(y, m * image, batch, budget)
        images = _at_a_time(y, image, m, budget) if samples == 1 else m
    for at in range(0, batch, samples):
        to = y[at : at + samples]
        for i in range(0, m, images):
            z = x[at : at + samples] if images == m else x[at : at + samples, i : i + images]
            todo1, todo2 = iter(chain1), iter(zip(chain2, kernels, strict=True))
            for which in order[:-1]:
                if which == "1":
                    z = rows_step(z, next(todo1), 1)
                else:
                    matrix, at_kernel = next(todo2)
                    z = _conv_by_parts(z, matrix, conv, y) if at_kernel else cols_step(z, matrix.flatten(1))
            if order[-1] == "1":
                matrix = next(todo1) if images == m else next(todo1)[:, i : i + images]
                to.view(len(to), l, -1).baddbmm_(matrix.expand(len(to), *matrix.shape), z.flatten(2), alpha=scale)
                continue
            matrix, at_kernel = next(todo2)
            if at_kernel:
                to.unflatten(1, (l, k)).add_(conv_step(z, matrix, conv), alpha=scale)
                continue
            matrix, z = matrix.flatten(1), z.flatten(3)
            if to.is_contiguous():
                into, z = to.view(len(to) * l, k, -1), z.flatten(0, 1)
                into.baddbmm_(matrix.expand(len(z), *matrix.shape), z, alpha=scale)
            else:  # some channels of a wider y
                for sample, image in zip(to, z, strict=True):
                    sample.view(l, k, -1).baddbmm_(matrix.expand(l, *matrix.shape), image, alpha=scale)


def _conv_by_parts(x: Tensor, weight: Tensor, conv: dict, y: Tensor) -> Tensor:
    """``conv_step`` on some of the images at a time: a CPU's convolution makes copies of its input and output."""
    if y.device.type != "cpu":
        return conv_step(x, weight, conv)
    flat = x.flatten(0, 1)
    images = _at_a_time(y, flat[0].numel(), len(flat), max(_CONV, y.numel() // 4))
    parts = [CONV[weight.ndim - 2](flat[at : at + images], weight, **conv) for at in range(0, len(flat), images)]
    z = parts[0] if len(parts) == 1 else torch.cat(parts)
    return z.unflatten(0, x.shape[:2])
