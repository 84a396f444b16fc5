"""In which order the matrices of two Kronecker factors act on an input."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from operator import itemgetter
from typing import NamedTuple

from torch import Tensor

from ._factor import Factor
from ._numerics import is_compiling

Shape = tuple[int, ...]

# The largest rank of w2 with which its intermediates go rank after rank. Measured on CPUs: up to here a product with
# the ranks as its rows takes half the time of one with the ranks as its columns, from 16 on it takes more.
_FEW_RANKS = 8


class _Step(NamedTuple):
    """One matrix of a chain, or the one convolution: (cols -> rows), ``taps`` numbers of kernel each."""

    rows: int
    cols: int
    taps: int = 0


def _chain(factor: Factor) -> list[Tensor]:
    """The factor's matrices in the order in which they act, each (rows, cols) or (rows, cols, *kernel)."""
    if factor.whole is not None:
        return [factor.whole]
    if factor.t is not None:
        # The core is stored (row rank, col rank, *kernel), its row half transposed (see Factor).
        return [factor.b, factor.t, factor.a.T]
    return [factor.b, factor.a]


def ordered(w1: Factor, w2: Factor, conv: dict | None) -> tuple[list[Tensor], list[Tensor], tuple[bool, ...], str]:
    """(w1's chain, w2's chain, which of its steps is the convolution, the cheapest order as a word of 1s and 2s).

    conv: the arguments of w2's convolution, of which stride and padding matter; None for a Linear.
    """
    chain1, chain2 = _chain(w1), _chain(w2)
    stride, padding = (_hashable(conv["stride"]), _hashable(conv["padding"])) if conv else (None, None)
    route = _route.__wrapped__ if is_compiling() else _route  # a compiler warns of caches
    shapes1, shapes2 = tuple([step.shape for step in chain1]), tuple([step.shape for step in chain2])
    return chain1, chain2, *route(shapes1, shapes2, stride, padding)


def interleaved(order: str, first: Sequence[Tensor], second: Sequence[Tensor]) -> list[Tensor]:
    """The matrices of both chains as ``order`` takes turns between them."""
    todo1, todo2 = iter(first), iter(second)
    return [next(todo1 if which == "1" else todo2) for which in order]


def rank_in_front(order: str, w2: Factor) -> bool:
    """Whether a Linear's intermediates are best laid out as (rank of w2, positions, rows of w1's matrices).

    w1 acts between b and a of w2 then, and so does each of its matrices by one product for all positions and ranks;
    with (positions, rows, rank) there would be one for each position.
    """
    low_rank = w2.rank is not None and w2.rank <= _FEW_RANKS
    return low_rank and "1" in order and order[0] == order[-1] == "2" and order.count("2") == 2


def _hashable(value: int | str | Sequence[int]) -> int | str | tuple[int, ...]:
    return value if isinstance(value, (int, str)) else tuple(value)


@lru_cache(maxsize=4096)
def _route(
    shapes1: tuple[Shape, ...],
    shapes2: tuple[Shape, ...],
    stride: int | tuple[int, ...] | None,
    padding: int | str | tuple[int, ...] | None,
) -> tuple[tuple[bool, ...], str]:
    """Which step of the second chain is the convolution, and the cheapest order. None, None: a Linear."""
    kernels = [stride is not None and any(d != 1 for d in shape[2:]) for shape in shapes2]
    if stride is not None and not any(kernels) and not (_all(stride, 1) and _all(padding, 0)):
        # A pointwise convolution is a matrix product on each position, but with a stride it drops positions and with
        # a padding it gets some.
        kernels[next(i for i, shape in enumerate(shapes2) if len(shape) > 2)] = True
    # Positions before the convolution for each one after it: the order does not depend on the input's size.
    axes = max(len(shape) for shape in shapes2) - 2
    inputs = 1 if stride is None else stride**axes if isinstance(stride, int) else prod(stride)
    steps1 = tuple(_Step(*shape) for shape in shapes1)
    steps2 = tuple(_Step(*shape[:2], prod(shape[2:]) if at else 0) for shape, at in zip(shapes2, kernels, strict=True))
    return tuple(kernels), _cheapest(steps1, steps2, inputs, 1)


def _all(value: int | str | tuple[int, ...], number: int) -> bool:
    if isinstance(value, str):
        return True  # "same" and "valid" do nothing to a pointwise convolution
    return value == number if isinstance(value, int) else all(v == number for v in value)


def _cheapest(chain1: tuple[_Step, ...], chain2: tuple[_Step, ...], inputs: int, outputs: int) -> str:
    """The order of fewest multiplications. ``inputs``, ``outputs``: positions before and after the convolution (the
    same for a Linear), of which only the ratio matters."""

    def best(i: int, j: int) -> tuple[int, str]:
        """(multiplications, order) of what is left once ``i`` and ``j`` steps of the chains are done."""
        # Of two orders that cost the same, the one in which w2 acts first: the step of w1 adds into a result.
        if i == len(chain1) and j == len(chain2):
            return 0, ""
        options = []
        passed = any(step.taps for step in chain2[:j])
        positions = outputs if passed or not any(step.taps for step in chain2) else inputs
        if i < len(chain1):
            step = chain1[i]
            size2 = chain2[j].cols if j < len(chain2) else chain2[-1].rows
            cost, rest = best(i + 1, j)
            options.append((cost + step.rows * step.cols * size2 * positions, "1" + rest))
        if j < len(chain2):
            step = chain2[j]
            size1 = chain1[i].cols if i < len(chain1) else chain1[-1].rows
            where = outputs if step.taps else positions
            cost, rest = best(i, j + 1)
            options.append((cost + step.rows * step.cols * max(step.taps, 1) * size1 * where, "2" + rest))
        return min(reversed(options), key=itemgetter(0))

    return best(0, 0)[1]
