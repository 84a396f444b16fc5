"""y = (w1 ⊗ w2) x, factored: for Linear inputs and as a convolution.

With X = x as (m, n): (w1 ⊗ w2) x = w1 X w2^T. Both factors are chains of one to three matrices (whole: one, low-rank:
b then a, Tucker: b, core, a), one chain acts on X's first axis and the other on its second, and the two can be
interleaved in any order. ``_plan`` finds the cheapest order by counting multiplications.
"""

from __future__ import annotations

from functools import cache, lru_cache
from math import prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import LoKrShapeError
from .add import materialize
from .factor import Factor

__all__ = ["apply_kron"]

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


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


@lru_cache(maxsize=4096)
def _plan(chain1: tuple[_Step, ...], chain2: tuple[_Step, ...], inputs: int, outputs: int) -> str:
    """The cheapest order of the steps as a word of 1s and 2s. ``inputs``, ``outputs``: positions before and after
    the convolution (the same for a Linear)."""

    @cache
    def best(i: int, j: int) -> tuple[int, str]:
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
        return min(options)

    return best(0, 0)[1]


def apply_kron(
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
    """``scale * (w1 ⊗ w2) x`` without the product, in x's dtype and on x's device, differentiable.

    Linear, w2 (k, n): x (..., m*n) -> (..., l*k)
    convolution, w2 (k, n, *kernel): x (batch, groups*m*n, *size) -> (batch, l*k, *size'), with the arguments of
    ``torch.nn.functional.conv*d``, the batch axis may be missing; the weight w1 ⊗ w2 is (l*k, m*n, *kernel).
    w1: (l, m); both may be low-rank or Tucker ``Factor``s and stay so. A w2 whose file flattened the kernel has to
    be given its axes first (``fit``). Raises LoKrShapeError where x has another number of channels.

    >>> x, w1, w2 = torch.randn(5, 6), torch.randn(4, 2), torch.randn(2, 3)
    >>> torch.allclose(apply_kron(x, w1, w2), x @ torch.kron(w1, w2).T, atol=1e-5)
    True
    """
    w1, w2 = Factor.of(w1).without_kernel(), Factor.of(w2)
    w1, w2 = (factor.to(device=x.device, dtype=x.dtype) for factor in (w1, w2))
    (l, m), (k, n, *kernel) = w1.shape, w2.shape
    if not kernel:
        _check(x, -1, m * n, w1, w2)
        lead = x.shape[:-1]
        y = _apply(x.reshape(prod(lead), m, n, 1), w1, w2, 1, None)
        return y.reshape(*lead, l * k) * scale
    if x.ndim == len(kernel) + 1:  # one sample without a batch axis, as torch's own convolutions take it
        return apply_kron(x[None], w1, w2, scale, stride=stride, padding=padding, dilation=dilation, groups=groups)[0]
    _check(x, 1, groups * m * n, w1, w2)
    conv = {"stride": stride, "padding": padding, "dilation": dilation}
    if l % groups:
        # Rows of w1 straddle two groups: such a grouped weight is small, so it is built.
        return _CONV[len(kernel)](x, materialize(w1, w2) * scale, groups=groups, **conv)
    batch, _, *size = x.shape
    y = _apply(x.reshape(batch * groups, m, n, *size), w1, w2, groups, conv)
    return y.reshape(batch, l * k, *y.shape[3:]) * scale


def _check(x: Tensor, axis: int, channels: int, w1: Factor, w2: Factor) -> None:
    """LoKrShapeError where x has another number of channels: reshaping could take it for another number of inputs."""
    if x.ndim == 0 or (axis == 1 and x.ndim != len(w2.kernel) + 2) or x.shape[axis] != channels:
        raise LoKrShapeError(
            "The input does not fit the factors",
            expected=f"{channels} channels on axis {axis} for w1 {w1.shape}, w2 {w2.shape}",
            found=f"input {tuple(x.shape)}",
        )


def _apply(x: Tensor, w1: Factor, w2: Factor, groups: int, conv: dict | None) -> Tensor:
    """x (batch * groups, m, n, *size) -> (batch * groups, l / groups, k, *size')."""
    chain1, chain2 = _chain(w1), _chain(w2)
    kernels = [conv is not None and any(d != 1 for d in step.shape[2:]) for step in chain2]
    if conv is not None and not any(kernels):
        # A pointwise convolution with a stride still drops positions.
        kernels[next(i for i, step in enumerate(chain2) if step.ndim > 2)] = True
    inputs = x.shape[0] * prod(x.shape[3:])
    outputs = inputs // (prod(_each(conv["stride"], x.ndim - 3)) if conv else 1)
    steps1 = tuple(_Step(*step.shape) for step in chain1)
    steps2 = tuple(
        _Step(*step.shape[:2], prod(step.shape[2:]) if at else 0) for step, at in zip(chain2, kernels, strict=True)
    )
    order = _plan(steps1, steps2, inputs, outputs)
    todo1, todo2 = iter(enumerate(chain1)), iter(zip(chain2, kernels, strict=True))
    for which in order:
        if which == "1":
            i, matrix = next(todo1)
            x = _rows_step(x, matrix, groups if i == len(chain1) - 1 else 1)
        else:
            matrix, at_kernel = next(todo2)
            x = _conv_step(x, matrix, conv) if at_kernel else _cols_step(x, matrix.flatten(1))
    return x


def _each(value: int | tuple[int, ...], axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(value)


def _rows_step(x: Tensor, matrix: Tensor, groups: int) -> Tensor:
    """matrix (m', m) on axis 1 of x (batch * groups, m, n, *size); with groups, each has its own rows of matrix."""
    flat = x.flatten(2)
    if groups == 1:
        y = torch.matmul(matrix, flat)
    else:
        y = torch.matmul(matrix.unflatten(0, (groups, -1)), flat.unflatten(0, (-1, groups))).flatten(0, 1)
    return y.unflatten(2, x.shape[2:])


def _cols_step(x: Tensor, matrix: Tensor) -> Tensor:
    """matrix (n', n) on axis 2 of x (batch, m, n, *size)."""
    if x.ndim == 4 and x.shape[3] == 1:
        return (x.squeeze(3) @ matrix.T).unsqueeze(3)
    return torch.matmul(matrix, x.flatten(3)).unflatten(3, x.shape[3:])


def _conv_step(x: Tensor, weight: Tensor, conv: dict) -> Tensor:
    """The convolution with weight (n', n, *kernel) on axis 2 of x (batch, m, n, *size)."""
    y = _CONV[weight.ndim - 2](x.flatten(0, 1), weight, **conv)
    return y.unflatten(0, x.shape[:2])
