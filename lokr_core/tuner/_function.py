"""y + scale · (w1 ⊗ w2) x for training: little is kept for the backward pass, and y is added to in place.

Plain autograd over ``apply_kron`` keeps each intermediate, and makes the update as a tensor of its own that is then
added to the layer's output. ``add_kron`` adds the last product straight into that output. It keeps the input (which is
the layer's own), the factors, and those intermediates that are much smaller than the input; others are made again.
Without gradients it is ``accumulate_kron_``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from ..kronecker import (
    Factor,
    accumulate_kron_,
    apply_kron,
    autocast_dtype,
    full_precision,
    interleaved,
    is_compiling,
    ordered,
    rank_in_front,
)
from ._shapes import AdapterShapes
from ._steps import Cols, Conv, ConvCols, ConvRows, FromRanks, Rows, Step, ToRanks

# An intermediate is kept where it has at most 1/_KEPT of the input's numbers: the low-rank forms' all are.
_KEPT = 2

_functorch_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)


def as_computed(x: Tensor, w1: Factor, w2: Factor) -> tuple[Factor, Factor]:
    """The factors in the dtype to compute in: autocast's where it is on, else their own (so PEFT, ``F.linear``)."""
    dtype = autocast_dtype(x.device)
    if dtype is None or x.dtype == torch.float64:
        return w1, w2
    return w1.to(dtype), w2.to(dtype)


def add_kron(
    y: Tensor | None,
    x: Tensor,
    w1: Factor,
    w2: Factor,
    scale: float,
    conv: dict | None = None,
    in_place: bool = False,
    rows: Tensor | None = None,
) -> Tensor:
    """``y + rows * scale * (w1 ⊗ w2) x`` in y's dtype, computed in the factors', differentiable any number of times.

    y: (..., l*k) or (batch, l*k, *size'), None for 0; x: (..., m*n) or (batch, groups*m*n, *size), in any dtype
    w1: (l, m) without a kernel, w2: (k, n) or (k, n, *kernel), in one dtype and on x's device
    conv: the arguments of a convolution (stride, padding, dilation, groups), padding in numbers; None for a Linear
    in_place: whether y may be written to; then y is used up, and its memory comes back
    rows: (l*k,), what each row of the adapter's matrix is multiplied by (rank dropout), a constant; None for 1

    Under ``torch.compile``, inside ``torch.func`` and in forward mode it is made of plain operations, which those
    follow by themselves.

    >>> x, w1, w2, y = torch.randn(5, 6), torch.randn(4, 2), torch.randn(2, 3), torch.randn(5, 8)
    >>> torch.allclose(add_kron(y, x, Factor(w1), Factor(w2), 0.5), y + 0.5 * x @ torch.kron(w1, w2).T, atol=1e-5)
    True
    """
    x = x.to(w1.dtype)
    groups = 1 if conv is None else conv["groups"]
    if rows is not None:
        rows = rows.to(x.dtype).view(-1, *(1,) * (0 if conv is None else len(conv["stride"])))
    with full_precision(x.device):
        if _followed() or x.numel() == 0 or w1.shape[0] % groups or (conv and x.ndim != len(conv["stride"]) + 2):
            update = apply_kron(x, w1, w2, scale, **(conv or {}))
            update = update if rows is None else update * rows
            return update if y is None else (y + update).to(y.dtype)
        if in_place and y is not None and rows is None and not torch.is_grad_enabled():
            return accumulate_kron_(y, x, w1, w2, scale, **(conv or {}))
        chain1, chain2, kernels, order = ordered(w1, w2, conv)
        if conv is None:
            plan = _linear_plan(order, rank_in_front(order, w2), w1.shape, w2.shape)
        else:
            plan = _conv_plan(order, kernels, w1.shape, w2.shape, tuple(conv.items()))
            chain2 = [step if at_kernel else step.flatten(1) for step, at_kernel in zip(chain2, kernels, strict=True)]
        matrices = interleaved(order, chain1, chain2)
        into = None if y is None else _matrix_under(y) if in_place else y.clone()
        result = _AddKron.apply(into, x, None, None, rows, plan, scale, *matrices)
        return result if y is None or result.shape == y.shape else result.view(y.shape)


def _matrix_under(y: Tensor) -> Tensor:
    """What ``y`` is a view of, where that is a Linear's output as a matrix, else ``y``.

    Autograd follows a write to a view by copies of the whole gradient, so it is the matrix that is written to.
    """
    whole = y._base if y._is_view() else None
    if whole is None or whole.shape[-1] != y.shape[-1] or whole.numel() != y.numel() or not whole.is_contiguous():
        return y
    return whole


class LinearKron(NamedTuple):
    """An adapter of a Linear, planned once: the ``names`` of its parameters in the order in which they act."""

    names: tuple[str, ...]
    plan: _Plan

    @classmethod
    @lru_cache(maxsize=4096)
    def of(cls, shapes: AdapterShapes) -> LinearKron:
        """For the adapter that has these shapes."""
        tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.tensors.items()}
        names = {id(tensor): name for name, tensor in tensors.items()}
        w1, w2 = shapes.factors(tensors)
        chain1, chain2, _, order = ordered(w1, w2, None)
        in_order = tuple(names[id(tensor)] for tensor in interleaved(order, chain1, chain2))
        return cls(in_order, _linear_plan(order, rank_in_front(order, w2), w1.shape, w2.shape))

    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: float,
        matrices: list[Tensor],
        rows: Tensor | None = None,
    ) -> Tensor:
        """``F.linear(x, weight, bias) + rows * scale * (w1 ⊗ w2) x`` as one function; all of it in one dtype.

        weight: (l*k, m*n), bias: (l*k,) or None, neither of which gets a gradient
        matrices: the parameters, in the order of ``names``
        rows: as for ``add_kron``
        """
        rows = None if rows is None else rows.to(x.dtype)
        return _AddKron.apply(None, x, weight, bias, rows, self.plan, scale, *matrices)

    @staticmethod
    def takes(x: Tensor) -> bool:
        """Whether ``x`` is what it can be called with: gradients are recorded, and by nothing but autograd."""
        plain = type(x) is Tensor and x.numel() > 0 and torch.is_grad_enabled() and not _followed()
        return plain and autocast_dtype(x.device) is None


def _followed() -> bool:
    """Whether something traces operations to transform them: a compiler, ``torch.func``, forward mode."""
    return is_compiling() or _functorch_active() or forward_ad._current_level >= 0


class _Plan(NamedTuple):
    """The steps in their order, and the grids between which they go: (m, n) and (l, k), of each of the groups."""

    steps: tuple[Step, ...]
    of_input: tuple[int, int]
    of_output: tuple[int, int]
    groups: int = 0  # 0 for a Linear

    def dense(self, x: Tensor) -> Tensor:
        """An input or the gradient of an output, of a Linear contiguous: several products read it, each would copy."""
        return x if self.groups else x.contiguous()

    def split(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """x (..., channels) or (batch, channels, *size) as (positions, *grid) or (batch * groups, *grid, *size)."""
        if self.groups:
            return x.reshape(len(x) * self.groups, *grid, *x.shape[2:])
        return x.reshape(-1, *grid)

    def join(self, z: Tensor, x: Tensor) -> Tensor:
        """The output that the grid ``z`` is, for the input ``x``."""
        if self.groups:
            return z.reshape(len(x), -1, *z.shape[3:])
        return z.reshape(*x.shape[:-1], -1)


@lru_cache(maxsize=4096)
def _linear_plan(order: str, ranks: bool, w1: tuple[int, ...], w2: tuple[int, ...]) -> _Plan:
    """``order`` as ``ordered`` gives it, ``ranks`` as ``rank_in_front`` does, the shapes of the factors."""
    (l, m), (k, n) = w1, w2
    if ranks:
        steps = [ToRanks(), *[Cols()] * order.count("1"), FromRanks()]
    else:
        steps = [Rows() if which == "1" else Cols() for which in order]
    return _Plan(tuple(steps), (m, n), (l, k))


@lru_cache(maxsize=4096)
def _conv_plan(
    order: str, kernels: tuple[bool, ...], w1: tuple[int, ...], w2: tuple[int, ...], conv: tuple[tuple, ...]
) -> _Plan:
    """``order`` and ``kernels`` as ``ordered`` gives them, the shapes of the factors, the convolution's arguments."""
    (l, m), (k, n) = w1, w2[:2]
    arguments = dict(conv)
    groups = arguments.pop("groups")
    last = order.rindex("1")  # w1's last matrix has the output's rows, which the groups share out
    steps: list[Step] = []
    at_kernel = iter(kernels)
    for i, which in enumerate(order):
        if which == "1":
            steps.append(ConvRows(groups if i == last else 1))
        else:
            steps.append(Conv(**arguments) if next(at_kernel) else ConvCols())
    return _Plan(tuple(steps), (m, n), (l // groups, k), groups)


class _AddKron(torch.autograd.Function):
    """(y or None, x, weight, bias, rows, plan, scale, the steps' matrices) -> y, which is written to, or a new output.

    With a ``weight``, a Linear's that is not trained, y is W x + b and made here: what goes back to x is then one sum.
    """

    @staticmethod
    def forward(ctx, y, x, weight, bias, rows, plan, scale, *matrices):
        """All steps but the last make intermediates, of which small ones are kept; the last adds to y."""
        dense = plan.dense(x)
        z = plan.split(dense, plan.of_input)
        most, kept = x.numel() // _KEPT, []
        for step, matrix in zip(plan.steps, matrices[:-1], strict=False):
            z = step(z, matrix)
            kept.append(z if z.numel() <= most else None)
        ctx.plan, ctx.scale = plan, scale
        ctx.save_for_backward(x, weight, rows, *matrices, *kept)
        step, matrix = plan.steps[-1], matrices[-1]
        made_here = weight is not None
        if made_here:
            y = F.linear(dense.view(-1, x.shape[-1]), weight, bias)
        elif y is None:
            update = plan.join(step(z, matrix * scale), x)
            return update if rows is None else update.mul_(rows)
        else:
            ctx.mark_dirty(y)
        if rows is not None:
            y.addcmul_(plan.join(step(z, matrix), x).view(y.shape), rows, value=scale)
        elif y.dtype == z.dtype and y.is_contiguous():
            step.add_(y, z, matrix, scale)
        else:
            y.add_(plan.join(step(z, matrix), x).view(y.shape), alpha=scale)
        return y.view(*x.shape[:-1], -1) if made_here else y

    @staticmethod
    def backward(ctx, g):
        """The steps' gradients from the last to the first; what was not kept is made again before."""
        plan, scale = ctx.plan, ctx.scale
        steps, of_input, of_output, _ = plan
        x, weight, rows, *saved = ctx.saved_tensors
        of_y, of_x, _, _, _, _, _, *of_matrices = ctx.needs_input_grad
        with full_precision(x.device):
            # What was kept has no history, so for a second derivative everything is made again.
            again = torch.is_grad_enabled()
            last = len(steps) - 1
            inputs = [plan.split(plan.dense(x), of_input)]
            for i in range(last):
                z = None if again else saved[last + 1 + i]
                inputs.append(steps[i](inputs[i], saved[i]) if z is None else z)
            results: list[Tensor | None] = [None] * (last + 1)
            g = plan.dense(g)
            back = g.to(x.dtype) if rows is None else g.to(x.dtype) * rows
            back = plan.split(back, of_output)
            for i in range(last, -1, -1):
                # The last step has the scale, so that no pass over an output or its gradient is for it alone.
                matrix = saved[i] * scale if i == last else saved[i]
                adds = i == 0 and weight is not None and not again
                onward = of_x or any(of_matrices[:i])
                before, result = steps[i].gradients(inputs[i], matrix, back, onward and not adds, of_matrices[i])
                results[i] = result * scale if i == last and result is not None else result
                if not onward:
                    break
                back = back if adds else before
            g_x = None
            if of_x and weight is not None:
                g_x = g.reshape(-1, len(weight)) @ weight
                if again:
                    g_x = g_x + back.reshape(g_x.shape)
                else:
                    steps[0].add_gradient_(g_x, saved[0], back)
                g_x = g_x.view(x.shape)
            elif of_x:
                g_x = back.reshape(x.shape)
        return (g if of_y else None), g_x, None, None, None, None, None, *results
