"""The chain with gradients: little is kept for the backward pass, and an output is added to in place.

Plain autograd over ``run`` keeps each intermediate, and makes the update as a tensor of its own that is then added to
the layer's output. The functions here add the last product straight into that output. They keep the input (which is
the layer's own), the matrices, and the intermediates that are much smaller than the input; others are made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as all_modules

from ._chain import planned, run, run_into_
from ._costs import CPU, GPU, goes_through, short_run
from ._factor import Factor
from ._numerics import KEPT, compute_dtype, full_precision, is_compiling
from ._scratch import back, take
from ._steps import Plan
from ._tiles import kron_view, operands

_functorch_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)
_any_autocast = getattr(
    torch._C, "_is_any_autocast_enabled", lambda: torch.is_autocast_enabled() or torch.is_autocast_cpu_enabled()
)

# torch's own forwards, and the hooks of every module.
_FORWARDS = tuple(kind.forward for kind in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
_GLOBAL_HOOKS = (
    all_modules._global_forward_pre_hooks,
    all_modules._global_forward_hooks,
    all_modules._global_backward_pre_hooks,
    all_modules._global_backward_hooks,
)


def followed() -> bool:
    """Whether something transforms the operations it traces: a compiler, ``torch.func``, forward mode."""
    return is_compiling() or _functorch_active() or forward_ad._current_level >= 0


def plain_autograd(x: Tensor) -> bool:
    """Whether gradients of what is made of ``x`` are recorded by autograd alone: not ``followed``, no autocast."""
    recorded = type(x) is Tensor and x.numel() > 0 and torch.is_grad_enabled()
    return recorded and not followed() and not _any_autocast()


def plus_kron(
    y: Tensor | None,
    x: Tensor,
    w1: Factor,
    w2: Factor,
    scale: float,
    conv: Mapping[str, Any] | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """``y + rows * scale * (w1 ⊗ w2) x``, written to y; without y a new tensor. Differentiable any number of times.

    y: (..., l*k) or (batch, l*k, *size'); x: (..., m*n) or (batch, groups*m*n, *size), not empty
    w1: (l, m), l a multiple of the groups; w2: (k, n) or (k, n, *kernel); in x's dtype and on its device
    conv: the arguments of a convolution (stride, padding, dilation, groups), numbers for each axis; None for a Linear
    rows: (l*k,), constant factors for the rows of the product (rank dropout); None for 1

    Not to be used where ``followed`` is true.

    >>> x, w1, w2, y = torch.randn(5, 6), torch.randn(4, 2), torch.randn(2, 3), torch.randn(5, 8)
    >>> expected = y + 0.5 * x @ torch.kron(w1, w2).T
    >>> torch.allclose(plus_kron(y, x, Factor(w1), Factor(w2), 0.5), expected, atol=1e-5)
    True
    """
    plan, matrices = planned(w1.matrices, w2.matrices, conv)
    if rows is not None:
        rows = rows.to(x.dtype).view(-1, *(1,) * (x.ndim - 2 if conv else 0))  # (l*k, 1, ...)
    under = None if y is None else _matrix_under(y)
    result = _Chain.apply(under, x, plan, scale, rows, None, None, *matrices)
    return result if y is None or result.shape == y.shape else result.view(y.shape)


def linear_plus_kron(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    plan: Plan,
    matrices: Sequence[Tensor],
    scale: float,
    rows: Tensor | None = None,
) -> Tensor:
    """``F.linear(x, weight, bias) + rows * scale * (w1 ⊗ w2) x`` as one function, for a frozen Linear; in one dtype.

    x: (..., m*n); weight: (l*k, m*n), bias: (l*k,) or None, neither of which gets a gradient
    matrices: in the order of ``plan.interleave``; rows: (l*k,), constants (rank dropout), or None for 1
    """
    rows = None if rows is None else rows.to(x.dtype)
    shapes = tuple(matrix.shape for matrix in matrices)
    through = rows is None and _through_pays(plan, shapes, x.numel() // x.shape[-1], x.dtype, x.is_cpu)
    way = _LinearThrough if through else _LinearPlusChain
    return way.apply(None, x, plan, scale, rows, weight, bias, *matrices)


@lru_cache(maxsize=4096)
def _through_pays(plan: Plan, shapes: tuple[torch.Size, ...], positions: int, dtype: torch.dtype, on_cpu: bool) -> bool:
    """Whether a Linear goes through W + scale * dW: in single precision and up, since half would round the first
    updates away, by the estimate for these shapes."""
    first, second = (tuple(map(tuple, part)) for part in plan.apart(shapes))
    (k, n), itemsize = (second[-1][0], second[0][1]), dtype.itemsize
    if dtype != compute_dtype(dtype) or (on_cpu and short_run((k, n), itemsize)):
        return False
    return goes_through(plan, first, second, positions, itemsize, CPU if on_cpu else GPU)


def untouched(layer: nn.Module) -> bool:
    """Whether a call of ``layer`` is torch's own forward and nothing else: no hook changes it or sees it."""
    hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    if type(layer).forward not in _FORWARDS or hooks or any(_GLOBAL_HOOKS):
        return False
    placed = vars(layer).get("forward")  # accelerate and LyCORIS restore a patched forward as an instance attribute
    return placed is None or own_forward(placed) is layer


def own_forward(forward: object) -> nn.Module | None:
    """The layer whose own forward, torch's, the bound method ``forward`` is; None for anything else."""
    layer = getattr(forward, "__self__", None)
    if not isinstance(layer, nn.Module) or getattr(forward, "__func__", None) not in _FORWARDS:
        return None
    return layer if type(layer).forward in _FORWARDS else None


def fused_linear(
    layer: nn.Module,
    x: Tensor,
    plan: Plan,
    matrices: Sequence[Tensor],
    scale: float,
    rows: Callable[[], Tensor | None],
) -> Tensor | None:
    """The output of the Linear ``layer`` for ``x`` plus its update as one function, in ``plain_autograd``.

    layer: whose call is torch's own forward alone; plan, matrices, scale: as for ``linear_plus_kron``
    rows: returns the constants of rank dropout, not called where the result is None

    Returns None if the weight is trained or quantised, the dtypes differ, or the input does not fit the weight.
    """
    # Read `_parameters` directly: `Module.__getattr__` is measurable on small layers.
    weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
    if type(weight) is not nn.Parameter or weight.requires_grad or (bias is not None and bias.requires_grad):
        return None
    one_dtype = weight.dtype == x.dtype and all(matrix.dtype == x.dtype for matrix in matrices)
    if not one_dtype or x.shape[-1] != weight.shape[1]:
        return None
    return linear_plus_kron(x, weight, bias, plan, matrices, scale, rows())


def _matrix_under(y: Tensor) -> Tensor:
    """The matrix that ``y``, a Linear's output, is a view of, else ``y``.

    Autograd follows a write to a view by copies of the whole gradient, so it is the matrix that is written to.
    """
    whole = y._base if y._is_view() else None
    if whole is None or whole.shape[-1] != y.shape[-1] or whole.numel() != y.numel() or not whole.is_contiguous():
        return y
    return whole


class _Chain(torch.autograd.Function):
    """(y, x, plan, scale, rows, weight, bias, *matrices) -> y + rows * scale * (w1 ⊗ w2) x, added to y in place.

    Without y it is W x + b, for a frozen W and b, or 0 without those. W x + b is computed here so that x's gradient is
    accumulated in one buffer.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor | None, x: Tensor, plan: Plan, scale: float, *tensors: Any) -> Tensor:
        rows, weight, bias, *matrices = tensors
        dense = _dense(plan, x)
        most = x.numel() // KEPT
        kept: list[Tensor | None] = []

        def keep_small(z: Tensor) -> None:
            kept.append(z if z.numel() <= most else None)

        shape = None
        if y is not None:
            ctx.mark_dirty(y)
        elif weight is not None:
            y, shape = F.linear(dense.view(-1, x.shape[-1]), weight, bias), (*x.shape[:-1], -1)  # (positions, l*k)
        if y is None:
            # Fold the scale into the last matrix: scaling an output would cost a pass over it.
            y = run(plan, dense, (*matrices[:-1], matrices[-1] * scale), keep_small)
            y = y if rows is None else y.mul_(rows)
        elif rows is None:
            run_into_(plan, y, dense, matrices, scale, keep_small)
        else:
            y.addcmul_(run(plan, dense, matrices, keep_small).view(y.shape), rows, value=scale)
        ctx.plan, ctx.scale = plan, scale
        # x itself is kept: it is the layer's own, and has a history for a second derivative.
        ctx.save_for_backward(x, weight, rows, *matrices, *kept)
        return y if shape is None else _of_its_own(y, shape)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        of_y, of_x, *_ = ctx.needs_input_grad
        g_x, g_matrices = _gradients(ctx, g, of_x, ctx.needs_input_grad[7:])
        return g if of_y else None, g_x, *[None] * 5, *g_matrices


class _LinearPlusChain(_Chain):
    """``_Chain`` on top of W x + b: graphs and profiles name it apart."""


class _LinearThrough(_Chain):
    """``_LinearPlusChain`` with one product for the output, and one for the gradient of the input, with W + scale * dW,
    which lies in scratch memory while it is used."""

    @staticmethod
    def forward(ctx: Any, y: Tensor | None, x: Tensor, plan: Plan, scale: float, *tensors: Any) -> Tensor:
        rows, weight, bias, *matrices = tensors
        with _updated(plan, weight, matrices, scale) as new:
            y = F.linear(_dense(plan, x).view(-1, x.shape[-1]), new, bias)  # (positions, l*k)
        ctx.plan, ctx.scale = plan, scale
        ctx.save_for_backward(x, weight, rows, *matrices, *[None] * (len(matrices) - 1))
        return _of_its_own(y, (*x.shape[:-1], -1))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        of_x = ctx.needs_input_grad[1]
        g_x, g_matrices = _gradients(ctx, g, of_x, ctx.needs_input_grad[7:], through=True)
        return None, g_x, *[None] * 5, *g_matrices


def _of_its_own(y: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``y`` in another shape, not as a view: autograd refuses in-place operations on a view that a function returns."""
    return torch.ops.aten._unsafe_view(y, shape)


@contextmanager
def _updated(plan: Plan, weight: Tensor, matrices: Sequence[Tensor], scale: float) -> Iterator[Tensor]:
    """W + scale * dW in scratch memory, (l*k, m*n)."""
    out, buffer = take(weight)
    try:
        with full_precision(weight.device):
            w1, w2 = (p[0] if len(p) == 1 else p[1] @ p[0] for p in plan.apart([m.detach() for m in matrices]))
            base, view = (kron_view(matrix, w1.shape, w2.shape) for matrix in (weight.detach(), out))
            torch.addcmul(base, *operands(w1, w2), value=scale, out=view)
        yield out
    finally:
        back(buffer)


def _gradients(
    ctx: Any, g: Tensor, of_x: bool, of_matrices: Sequence[bool], through: bool = False
) -> tuple[Tensor | None, list[Tensor | None]]:
    """The gradients of x and of the matrices from that of the output, ``g``; what was not kept is made again.

    through: whether x's goes through W + scale * dW
    """
    (plan, scale), (x, weight, rows, *saved) = (ctx.plan, ctx.scale), ctx.saved_tensors
    steps, last = plan.steps, len(plan.steps) - 1
    second = torch.is_grad_enabled()  # a second derivative: what was kept has no history, so all of it is made again
    in_place = weight is not None and of_x and not second
    results: list[Tensor | None] = [None] * (last + 1)
    with full_precision(x.device):
        inputs = [plan.split(_dense(plan, x), plan.of_input)]  # of each step
        for i, kept in enumerate(saved[last + 1 :]):
            inputs.append(steps[i](inputs[i], saved[i]) if second or kept is None else kept)
        g = _dense(plan, g)
        of_product = g.to(x.dtype) if rows is None else g.to(x.dtype) * rows
        of_product = plan.split(of_product, plan.of_output)  # (positions, l, k)
        for i in range(last, -1, -1):
            matrix = saved[i] * scale if i == last else saved[i]  # as in ``forward``
            of_input = any(of_matrices[:i]) or (of_x and not (i == 0 and in_place))
            of_z, result = steps[i].gradients(inputs[i], matrix, of_product, of_input, of_matrices[i])
            results[i] = result * scale if i == last and result is not None else result
            if of_z is None:
                break
            of_product = of_z
        if not of_x:
            return None, results
        if weight is None:
            return of_product.reshape(x.shape), results
        if in_place and through:
            with _updated(plan, weight, saved[: last + 1], scale) as new:
                return (g.reshape(-1, len(weight)) @ new).view(x.shape), results
        g_x = g.reshape(-1, len(weight)) @ weight  # (positions, m*n)
        if in_place:
            steps[0].add_gradient_(g_x, saved[0], of_product)
        else:
            g_x = g_x + of_product.reshape(g_x.shape)
        return g_x.view(x.shape), results


def _dense(plan: Plan, x: Tensor) -> Tensor:
    """A Linear's input, or the gradient of its output, contiguous: several products read it, and each would copy it."""
    return x if plan.groups else x.contiguous()
