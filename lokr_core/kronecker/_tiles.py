"""A weight seen as the grid of tiles that a Kronecker product writes into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from torch import Tensor

from ..errors import LoKrValueError
from ._numerics import CACHE, LEAST_BLOCK, SHORT_RUN, compute_dtype


def kron(w1: Tensor, w2: Tensor) -> Tensor:
    """w1 (l, m) ⊗ w2 (k, n, *kernel) -> (l*k, m*n, *kernel), built whole. w1's missing axes come last.

    (``torch.kron`` puts missing axes first, which scrambles the result for any kernel.)
    """
    first, second = operands(w1, w2)
    (l, m), (k, n, *kernel) = w1.shape, w2.shape
    return (first * second).reshape(l * k, m * n, *kernel)


def operands(w1: Tensor, w2: Tensor) -> tuple[Tensor, Tensor]:
    """w1 (l, m) as (l, 1, m, 1, ...) and w2 (k, n, *kernel) as (1, k, 1, n, *kernel): blocks of a ``kron_view`` are
    their products."""
    l, m = w1.shape
    return w1.view(l, 1, m, 1, *(1,) * (w2.ndim - 2)), w2.unsqueeze(0).unsqueeze(2)


def check_dtype(weight: Tensor) -> None:
    """Raises LoKrValueError if the weight is quantised or complex."""
    if not weight.is_floating_point():
        raise LoKrValueError(
            "A weight of this dtype cannot be added to",
            expected="a real floating dtype",
            found=f"{str(weight.dtype).removeprefix('torch.')}, shape {tuple(weight.shape)}",
            hint="load the model unquantised, or apply the adapter to each layer's output instead of its weight",
        )


def kron_view(weight: Tensor, w1: Sequence[int], w2: Sequence[int]) -> Tensor:
    """``weight`` (l*k, m*n, *kernel) as a view (l, k, m, n, *kernel), so that block [i, :, j, :] is w1[i, j] * w2.

    w1, w2: the factors' shapes, (l, m) and (k, n, ...).

    Splitting axes never copies, whatever the strides.
    """
    (l, m), (k, n) = w1, w2[:2]
    # One view of a dense weight is faster than two of any: every layer of a model passes here, at every step.
    if weight.is_contiguous():
        return weight.view(l, k, m, n, *weight.shape[2:])
    return weight.unflatten(1, (m, n)).unflatten(0, (l, k))


def blocks(view: Tensor, share: int = 20, least: int = LEAST_BLOCK) -> Iterator[tuple[slice, slice]]:
    """Slices of the first two axes (l, k) of a ``kron_view``, so that the blocks make up the weight.

    A block in the computing dtype has at most 1/``share`` of the weight's bytes, or ``least`` numbers (a row at least);
    on a CPU no more than stays in the cache. Blocks that use the same rows of w2 are yielded consecutively.
    """
    l, k = view.shape[:2]
    row = prod(view.shape[2:])
    budget = max(view.numel() * view.element_size() // (share * compute_dtype(view.dtype).itemsize), least)
    if view.device.type == "cpu":
        budget = min(budget, CACHE)
    k_step = max(1, min(k, budget // row))
    l_step = max(1, min(l, budget // (row * k_step))) if k_step == k else 1
    for j in range(0, k, k_step):
        for i in range(0, l, l_step):
            yield slice(i, min(i + l_step, l)), slice(j, min(j + k_step, k))


def add_block_(block: Tensor, w1: Tensor, w2: Tensor, scale: float) -> None:
    """block (l, k, m, n, *kernel) += scale * w1 (l, m) * w2 (k, n, *kernel), all in one dtype."""
    run = prod(block.shape[3:])
    if 1 < run < SHORT_RUN[block.dtype.itemsize] and block.device.type == "cpu" and block[0, 0].is_contiguous():
        w1_row = w1.repeat_interleave(run, dim=1)[:, None]
        w2_row = w2.reshape(len(w2), run).repeat(1, block.shape[2])[None]
        block.flatten(2).addcmul_(w1_row, w2_row, value=scale)
        return
    block.addcmul_(*operands(w1, w2), value=scale)
