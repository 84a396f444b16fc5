"""In which order the matrices of two Kronecker factors act on an input."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from operator import itemgetter
from typing import NamedTuple

from torch import Tensor

from .blocks import is_compiling
from .factor import Factor

__all__ = ["chain", "has_kernel", "plan"]


class _Step(NamedTuple):
    """One matrix of a chain, or the one convolution: (cols -> rows), ``taps`` numbers of kernel each."""

    rows: int
    cols: int
    taps: int = 0


def chain(factor: Factor) -> list[Tensor]:
    """The factor's matrices in the order in which they act, each (rows, cols) or (rows, cols, *kernel)."""
    if factor.whole is not None:
        return [factor.whole]
    if factor.t is not None:
        # The core is stored (row rank, col rank, *kernel), its row half transposed (see Factor).
        return [factor.b, factor.t, factor.a.T]
    return [factor.b, factor.a]


def has_kernel(steps: list[Tensor], conv: dict | None) -> list[bool]:
    """Which of w2's steps is the convolution; ``conv`` its arguments, None for a Linear.

    None where a pointwise convolution is a matrix product on each position.
    """
    kernels = [conv is not None and any(d != 1 for d in step.shape[2:]) for step in steps]
    if conv is not None and not any(kernels) and not (_all(conv["stride"], 1) and _all(conv["padding"], 0)):
        # A pointwise convolution with a stride drops positions, with a padding it gets some.
        kernels[next(i for i, step in enumerate(steps) if step.ndim > 2)] = True
    return kernels


def _all(value: int | str | tuple[int, ...], number: int) -> bool:
    if isinstance(value, str):
        return True  # "same" and "valid" do nothing to a pointwise convolution
    return value == number if isinstance(value, int) else all(v == number for v in value)


def plan(chain1: list[Tensor], chain2: list[Tensor], kernels: list[bool], inputs: int, outputs: int) -> str:
    """The cheapest order of the steps as a word of 1s and 2s. ``inputs``, ``outputs``: positions before and after
    the convolution (the same for a Linear), of which only the ratio matters."""
    steps1 = tuple(_Step(*step.shape) for step in chain1)
    steps2 = tuple(
        _Step(*step.shape[:2], prod(step.shape[2:]) if at else 0) for step, at in zip(chain2, kernels, strict=True)
    )
    cheapest = _cheapest.__wrapped__ if is_compiling() else _cheapest  # a compiler warns of caches
    return cheapest(steps1, steps2, inputs, outputs)


@lru_cache(maxsize=4096)
def _cheapest(chain1: tuple[_Step, ...], chain2: tuple[_Step, ...], inputs: int, outputs: int) -> str:
    def best(i: int, j: int) -> tuple[int, str]:
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
