"""A weight seen as the grid of tiles that a Kronecker product writes into."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from torch import Tensor

from ..errors import LoKrValueError
from ._factor import Factor
from ._numerics import compute_dtype

# Numbers of fp32 scratch that stay in the cores' caches; and the least that is worth a kernel call.
_CACHE, _LEAST = 1 << 19, 1 << 15


def check_dtype(weight: Tensor) -> None:
    """LoKrValueError where ``weight``'s numbers stand for others (quantised integers) or are no real numbers."""
    if not weight.is_floating_point():
        raise LoKrValueError(
            "A weight of this dtype cannot be added to",
            expected="a real floating dtype",
            found=f"{str(weight.dtype).removeprefix('torch.')}, shape {tuple(weight.shape)}",
            hint="load the model unquantised, or apply the adapter to each layer's output instead of its weight",
        )


def kron_view(weight: Tensor, w1: Factor, w2: Factor) -> Tensor:
    """``weight`` (l*k, m*n, *kernel) as a view (l, k, m, n, *kernel), so that block [i, :, j, :] is w1[i, j] * w2.

    Splitting axes never copies, whatever the strides.
    """
    (l, m), (k, n) = w1.shape, w2.shape[:2]
    return weight.unflatten(1, (m, n)).unflatten(0, (l, k))


def blocks(view: Tensor, share: int = 20) -> Iterator[tuple[slice, slice]]:
    """Slices of the first two axes (l, k) of a ``kron_view``, so that the blocks make up the weight.

    A block in the computing dtype has at most 1/``share`` of the weight's bytes (a row at least); on a CPU no more
    than stays in the cache. All blocks of some rows of w2 follow each other.
    """
    l, k = view.shape[:2]
    row = prod(view.shape[2:])
    budget = max(view.numel() * view.element_size() // (share * compute_dtype(view.dtype).itemsize), _LEAST)
    if view.device.type == "cpu":
        budget = min(budget, _CACHE)
    k_step = max(1, min(k, budget // row))
    l_step = max(1, min(l, budget // (row * k_step))) if k_step == k else 1
    for j in range(0, k, k_step):
        for i in range(0, l, l_step):
            yield slice(i, min(i + l_step, l)), slice(j, min(j + k_step, k))


# Below so many numbers, the contiguous run of a block is too short for the CPU's broadcasting kernels
# (measured: up to 10x slower at 4 numbers in fp16); expanded rows are then faster.
_SHORT_RUN = {2: 32, 4: 8, 8: 4}


def add_block_(block: Tensor, w1: Tensor, w2: Tensor, scale: float) -> None:
    """block (l, k, m, n, *kernel) += scale * w1 (l, m) * w2 (k, n, *kernel), all in one dtype."""
    run = prod(block.shape[3:])
    if 1 < run < _SHORT_RUN[block.dtype.itemsize] and block.device.type == "cpu" and block[0, 0].is_contiguous():
        w1_row = w1.repeat_interleave(run, dim=1)[:, None]
        w2_row = w2.reshape(len(w2), run).repeat(1, block.shape[2])[None]
        block.flatten(2).addcmul_(w1_row, w2_row, value=scale)
        return
    trailing = (1,) * (block.ndim - 3)
    block.addcmul_(w1.reshape(w1.shape[0], 1, w1.shape[1], *trailing), w2[None, :, None], value=scale)
