"""What the steps of a chain cost, and whether a training step is cheaper through the weight. Estimates by shapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import NamedTuple

from ._numerics import KEPT, SHORT_RUN
from ._order import Shape
from ._steps import Plan


class Rates(NamedTuple):
    """What a kind of device takes, in seconds: for the estimates by which live chooses a layer's way.

    multiplication: one of a matrix product or a convolution
    byte: read or written between a chain's steps; weight_byte: of a weight, which is larger than any cache
    linear, convolution: calls that add factors to the output of such a layer; through: calls that make W'
    """

    multiplication: float
    byte: float
    weight_byte: float
    linear: float
    convolution: float
    through: float


# Fitted to the layers of SD1.5's UNet and to single Linears (320 to 12288 wide, 64 to 4,096 positions) in fp32, on two
# cores of a shared x86 server (docs/benchmarks.md).
CPU = Rates(8e-12, 2e-11, 2.7e-11, 5.5e-5, 1.4e-4, 5e-5)
# By the data sheet of an H100 in half precision, and what Python takes for a call on a CPU: not measured.
GPU = Rates(5e-15, 4e-13, 4e-13, 4e-5, 8e-5, 4e-5)


def step_work(plan: Plan, first: Sequence[Shape], second: Sequence[Shape]) -> Iterator[tuple[int, int, int]]:
    """(multiplications, numbers read, numbers written) of each step of a chain, for each output position.

    first, second: the shapes of w1's and w2's matrices, in the order in which they act
    """
    rows, cols = plan.of_input
    todo1, todo2 = iter(first), iter(second)
    for factor in plan.order:
        before = rows * cols
        if factor == "1":
            p, q = next(todo1)
            multiplications, rows = p * q * cols, p
        else:
            p, q, *kernel = next(todo2)
            multiplications, cols = p * q * prod(kernel) * rows, p
        yield multiplications, before, rows * cols


def goes_through(
    plan: Plan, first: tuple[Shape, ...], second: tuple[Shape, ...], positions: int, itemsize: int, rates: Rates
) -> bool:
    """Whether a training step of a frozen Linear is estimated to be cheaper through W + dW than with the factors beside
    W. Both take the products that the factors' gradients need.

    first, second: the shapes of w1's and w2's matrices, in the order in which they act; positions: of the input
    """
    steps = list(step_work(plan, first, second))
    (multiplications, _, entered), (last, left, _) = steps[0], steps[-1]
    inputs, outputs = prod(plan.of_input), prod(plan.of_output)
    # Beside W, the last step adds to the output, and the first one's transpose to the gradient of the input ...
    multiplications, moved = multiplications + last, entered + 2 * inputs + left + 2 * outputs
    for work, read, written in steps[:-1]:
        if written * KEPT > inputs:  # ... and what is too large to be kept is made twice.
            multiplications, moved = multiplications + work, moved + read + written
    factored = positions * (multiplications * rates.multiplication + moved * itemsize * rates.byte)
    # Through it, W' is made for the output and for the gradient of the input.
    weight = rates.through + 2 * inputs * outputs * itemsize * rates.weight_byte
    weight += sum(_built(shapes) for shapes in (first, second)) * rates.multiplication
    return 2 * weight < factored


def short_run(w2: Sequence[int], itemsize: int) -> bool:
    """Whether w2 (k, n, *kernel) has rows so short that a CPU's kernels write them slower than they read a weight."""
    return prod(w2[1:]) < SHORT_RUN.get(itemsize, 1)


def _built(shapes: Sequence[Shape]) -> int:
    """Multiplications that make a factor out of its matrices."""
    return 0 if len(shapes) == 1 else shapes[-1][0] * shapes[-1][1] * shapes[0][1]
