"""What an update costs a layer's forward: as products with the input, and as a pass over the weight. Estimates."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ._costs import Rates, step_work
from ._factor import Factor
from ._order import Shape
from ._steps import Plan


def update_costs(
    plan: Plan,
    w1: Factor,
    w2: Factor,
    positions: float,
    itemsize: int,
    rates: Rates,
    has_dora: bool = False,
) -> tuple[float, float]:
    """(factored, through the weight): the estimated seconds that an update takes in a layer's forward.

    plan: of the factors; positions: the layer's output positions, of all samples; itemsize: of a number, in bytes
    """
    multiplications, moved = _chain_work(plan, [m.shape for m in w1.matrices], [m.shape for m in w2.matrices])
    weight_bytes = prod(w1.shape) * prod(w2.shape) * itemsize
    each = multiplications * rates.multiplication + moved * itemsize * rates.byte
    factored = positions * max(1, plan.groups) * each + (rates.convolution if plan.groups else rates.linear)
    through = rates.through + 2 * weight_bytes * rates.weight_byte
    if w2.rank is not None:
        through += prod(w2.shape) * w2.rank * rates.multiplication
    if has_dora:  # a second pass over what is in the cache by then, and three over the output
        through += weight_bytes * rates.weight_byte
        factored += 3 * positions * w1.shape[0] * w2.shape[0] * itemsize * rates.byte + 2 * rates.linear
    return factored, through


def _chain_work(plan: Plan, first: Sequence[Shape], second: Sequence[Shape]) -> tuple[int, int]:
    """(multiplications, numbers moved) for each output position of a plan's chain; shapes as for ``linear_plan``.

    A convolution's steps before it has convolved count as often as its stride drops positions.
    """
    steps = list(step_work(plan, first, second))
    moved = sum(read + written for _, read, written in steps)
    return sum(step[0] for step in steps), moved + steps[-1][2]  # the last step reads the output that it adds to
