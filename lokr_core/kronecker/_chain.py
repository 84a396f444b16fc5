"""The chain of matrix products that makes up (w1 ⊗ w2) x: how it is planned, and the two functions that run it.

With x as a grid X (m, n): (w1 ⊗ w2) x = w1 X w2ᵀ, which is (l, k). Each factor is a chain of one to three matrices
(whole: one; low-rank: b, a; Tucker: b, core, a). Those of w1 act on the grid's first axis, those of w2 on its second,
so the two chains can be interleaved in any order.

A Linear has one grid per position: (positions, m, n) -> (positions, l, k). A convolution has one per sample and group:
(batch * groups, m, n, *size) -> (batch * groups, l / groups, k, *size').
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any

from torch import Tensor

from ._numerics import CONV_CHUNK, FEW_RANKS, GPU_CHUNK, LINEAR_CHUNK, is_compiling
from ._order import Shape, cheapest
from ._steps import Cols, Conv, FromRanks, Plan, Pointwise, Rows, Step, ToRanks, at_a_time


def linear_plan(first: Sequence[Shape], second: Sequence[Shape], few_ranks: int = FEW_RANKS) -> Plan:
    """The plan of a Linear from the shapes (rows, cols) of w1's and w2's matrices, in the order in which they act.

    >>> plan = linear_plan([(16, 16)], [(8, 64), (64, 8)])  # w1 (16, 16), w2 = a b of rank 8
    >>> plan.interleave(["w1"], ["b", "a"])
    ['b', 'w1', 'a']
    """
    make = _linear_plan.__wrapped__ if is_compiling() else _linear_plan  # a compiler warns of caches
    return make(tuple(first), tuple(second), few_ranks)


def conv_plan(first: Sequence[Shape], second: Sequence[Shape], conv: Mapping[str, Any]) -> Plan:
    """The plan of a convolution; as ``linear_plan``, with w2's matrices (rows, cols, *kernel).

    conv: its stride, padding, dilation and groups, each a number or one for each axis. A pointwise matrix of w2 is to
    be passed to ``run`` without its kernel axes: (rows, cols).
    """
    make = _conv_plan.__wrapped__ if is_compiling() else _conv_plan
    axes = max(len(shape) for shape in second) - 2
    stride, padding, dilation = (_per_axis(conv[name], axes) for name in ("stride", "padding", "dilation"))
    return make(tuple(first), tuple(second), stride, padding, dilation, conv["groups"])


@lru_cache(maxsize=4096)
def _linear_plan(first: tuple[Shape, ...], second: tuple[Shape, ...], few_ranks: int) -> Plan:
    order = cheapest(first, second, [0] * len(second), 1)
    (l, m), (k, n) = _ends(first), _ends(second)
    rows, cols, widest, todo1, todo2 = m, n, 0, iter(first), iter(second)
    for factor in order[:-1]:
        rows, cols = (next(todo1)[0], cols) if factor == "1" else (rows, next(todo2)[0])
        widest = max(widest, rows * cols)
    steps: list[Step]
    if order[0] == order[-1] == "2" and order.count("2") == 2 and second[0][0] <= few_ranks:
        # w1 acts between b and a of w2. In the layout (rank, positions, rows) each matrix of w1 is one matmul over all
        # positions and ranks; in (positions, rows, rank) it would be one matmul per position.
        steps = [ToRanks(), *[Cols()] * order.count("1"), FromRanks()]
    else:
        steps = [Rows() if factor == "1" else Cols() for factor in order]
    return Plan(order, tuple(steps), (m, n), (l, k), 0, widest)


@lru_cache(maxsize=4096)
def _conv_plan(
    first: tuple[Shape, ...], second: tuple[Shape, ...], stride: Any, padding: Any, dilation: Any, groups: int
) -> Plan:
    taps = [prod(shape[2:]) if any(d != 1 for d in shape[2:]) else 0 for shape in second]
    if not any(taps) and (any(s != 1 for s in stride) or (padding not in ("same", "valid") and any(padding))):
        # A pointwise convolution is a matrix product on each position, but with a stride it drops positions and with
        # a padding in numbers it gets some.
        taps[next(i for i, shape in enumerate(second) if len(shape) > 2)] = 1
    # Positions before the convolution for each one after it: the order does not depend on the input's size.
    order = cheapest(first, second, taps, prod(stride))
    (l, m), (k, n) = _ends(first), _ends(second)
    last, todo2 = order.rindex("1"), iter(taps)
    steps: list[Step] = []
    for i, factor in enumerate(order):
        if factor == "1":  # w1's last matrix has the output's rows, which the groups share out
            steps.append(Pointwise(1, groups if i == last else 1))
        else:
            steps.append(Conv(stride, padding, dilation) if next(todo2) else Pointwise(2))
    return Plan(order, tuple(steps), (m, n), (l // groups, k), groups, 0)


def _ends(shapes: Sequence[Shape]) -> tuple[int, int]:
    """(rows, cols) of the product of a chain's matrices."""
    return shapes[-1][0], shapes[0][1]


def _per_axis(value: Any, axes: int) -> Any:
    """A convolution's argument as numbers for each axis; "same" and "valid" as they are."""
    if isinstance(value, int):
        return (value,) * axes
    return value if isinstance(value, str) else tuple(value)


def planned(
    first: Sequence[Tensor], second: Sequence[Tensor], conv: Mapping[str, Any] | None, few_ranks: int = FEW_RANKS
) -> tuple[Plan, list[Tensor]]:
    """(plan, matrices in its order) for w1's and w2's matrices; ``conv``: None for a Linear (see ``conv_plan``)."""
    shapes1, shapes2 = [matrix.shape for matrix in first], [matrix.shape for matrix in second]
    if conv is None:
        plan = linear_plan(shapes1, shapes2, few_ranks)
        return plan, plan.interleave(first, second)
    plan = conv_plan(shapes1, shapes2, conv)
    pairs = zip(plan.steps, plan.interleave(first, second), strict=True)
    return plan, [matrix if isinstance(step, Conv) else matrix.flatten(1) for step, matrix in pairs]


def run(plan: Plan, x: Tensor, matrices: Sequence[Tensor], seen: Callable[[Tensor], object] | None = None) -> Tensor:
    """(w1 ⊗ w2) x for x (..., m*n) or (batch, groups*m*n, *size), in plain operations that autograd can record.

    matrices: in the plan's order; ``seen`` is called with each intermediate
    """
    z = _before_last(plan, plan.split(x, plan.of_input), matrices, seen)
    return plan.join(plan.steps[-1](z, matrices[-1]), x)


def run_into_(
    plan: Plan,
    y: Tensor,
    x: Tensor,
    matrices: Sequence[Tensor],
    scale: float,
    seen: Callable[[Tensor], object] | None = None,
) -> None:
    """y += scale * (w1 ⊗ w2) x: the last product accumulates into y, so the update itself is never held.

    y: (..., l*k) or (batch, l*k, *size'), any strides and dtype. Runs in chunks, or with ``seen`` (see ``run``) in one.
    Autograd must be off.
    """
    into = _addable(plan, y, x)
    if into is None:
        y.add_(run(plan, x, matrices, seen).view(y.shape), alpha=scale)
        return
    if plan.groups:
        _convolve_into_(plan, into, plan.split(x, plan.of_input), matrices, scale, seen)
        return
    z = x.reshape(-1, *plan.of_input)  # (positions, m, n)
    positions = z.size(0)
    budget = LINEAR_CHUNK if y.is_cpu else max(GPU_CHUNK, y.numel() // 4)
    if seen is not None or plan.widest * positions <= budget:
        plan.steps[-1].add_(into, _before_last(plan, z, matrices, seen), matrices[-1], scale)
        return
    count = at_a_time(plan.widest, positions, budget)
    for at in range(0, positions, count):
        part = _before_last(plan, z[at : at + count], matrices)
        plan.steps[-1].add_(into[at : at + count], part, matrices[-1], scale)


def _before_last(
    plan: Plan, z: Tensor, matrices: Sequence[Tensor], seen: Callable[[Tensor], object] | None = None, budget: int = 0
) -> Tensor:
    """The grid z after all steps but the last; with a ``budget``, convolutions do that many numbers at a time."""
    for step, matrix in zip(plan.steps[:-1], matrices, strict=False):
        z = step.in_chunks(z, matrix, budget) if budget else step(z, matrix)
        if seen is not None:
            seen(z)
    return z


def _addable(plan: Plan, y: Tensor, x: Tensor) -> Tensor | None:
    """y as the last step's ``add_`` takes it, a view: (positions, l*k) or y itself. None if dtype or strides forbid."""
    if y.dtype != x.dtype or not x.numel():
        return None
    if plan.groups:
        dense = y.numel() and (y.is_contiguous() if plan.groups > 1 else y[0].is_contiguous())
        return y if dense else None
    try:
        return y.view(-1, y.size(-1))
    except RuntimeError:
        return None


def _convolve_into_(
    plan: Plan,
    y: Tensor,
    z: Tensor,
    matrices: Sequence[Tensor],
    scale: float,
    seen: Callable[[Tensor], object] | None,
) -> None:
    """``run_into_`` for a convolution whose input is the grid z (batch * groups, m, n, *size)."""
    step, last = plan.steps[-1], matrices[-1]
    budget = max(CONV_CHUNK if y.is_cpu else GPU_CHUNK, y.numel() // 4)
    if seen is not None or plan.groups > 1 or plan.order[-1] != "1" or plan.order.count("1") > 1:
        step.add_(y, _before_last(plan, z, matrices, seen, 0 if seen else budget), last, scale)
        return
    # All of w2 acts before w1 does in one step: w1 sums over m images of k channels, some of them at a time.
    (batch, m), image = z.shape[:2], plan.of_output[1] * prod(y.shape[2:])
    samples = at_a_time(m * image, batch, budget)
    images = at_a_time(image, m, budget) if samples == 1 else m
    for at in range(0, batch, samples):
        for i in range(0, m, images):
            part = _before_last(plan, z[at : at + samples, i : i + images], matrices, None, budget)
            step.add_(y[at : at + samples], part, last[:, i : i + images], scale)
