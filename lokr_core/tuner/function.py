"""y + scale · (w1 ⊗ w2) x for training: little is kept for the backward pass, and y is added to in place.

Plain autograd over ``apply_kron`` keeps each intermediate, and makes the update as a tensor of its own that is then
added to the layer's output. ``add_kron`` adds the last product straight into that output. It keeps the input (which is
the layer's own), the factors, and those intermediates that are much smaller than the input; others are made again.
Without gradients it is ``accumulate_kron_``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..kronecker import Factor, accumulate_kron_, apply_kron
from ..kronecker.apply import cols_step, conv_step, ordered, rows_step
from ..kronecker.blocks import autocast_dtype, full_precision, is_compiling

__all__ = ["add_kron", "as_computed"]

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
) -> Tensor:
    """``y + scale * (w1 ⊗ w2) x`` in y's dtype, computed in the factors', differentiable any number of times.

    y: (..., l*k) or (batch, l*k, *size'), None for 0; x: (..., m*n) or (batch, groups*m*n, *size), in any dtype
    w1: (l, m) without a kernel, w2: (k, n) or (k, n, *kernel), in one dtype and on x's device
    conv: the arguments of a convolution (stride, padding, dilation, groups), padding in numbers; None for a Linear
    in_place: whether y may be written to; then y itself comes back

    Under ``torch.compile``, inside ``torch.func`` and in forward mode it is made of plain operations, which those
    follow by themselves.

    >>> x, w1, w2, y = torch.randn(5, 6), torch.randn(4, 2), torch.randn(2, 3), torch.randn(5, 8)
    >>> torch.allclose(add_kron(y, x, Factor(w1), Factor(w2), 0.5), y + 0.5 * x @ torch.kron(w1, w2).T, atol=1e-5)
    True
    """
    x = x.to(next(iter(w1.tensors.values())).dtype)
    groups = 1 if conv is None else conv["groups"]
    with full_precision(x.device):
        if _followed() or x.numel() == 0 or w1.shape[0] % groups or (conv and x.ndim != len(conv["stride"]) + 2):
            update = apply_kron(x, w1, w2, scale, **(conv or {}))
            return update if y is None else (y + update).to(y.dtype)
        if in_place and y is not None and not torch.is_grad_enabled():
            return accumulate_kron_(y, x, w1, w2, scale, **(conv or {}))
        chain1, chain2, kernels, order = ordered(w1, w2, conv)
        todo1, todo2 = iter(chain1), iter(zip(chain2, kernels, strict=True))
        steps, matrices = [], []
        for which in order:
            if which == "1":
                matrices.append(next(todo1))
                steps.append("rows")
            else:
                matrix, at_kernel = next(todo2)
                matrices.append(matrix if at_kernel else matrix.flatten(1))
                steps.append("conv" if at_kernel else "cols")
        plan = _Plan(tuple(steps), w1.shape, w2.shape[:2], conv, groups, scale)
        if y is not None and not in_place:
            y = y.clone()
        return _AddKron.apply(y, x, plan, *matrices)


def _followed() -> bool:
    """Whether something traces operations to transform them: a compiler, ``torch.func``, forward mode."""
    return is_compiling() or _functorch_active() or forward_ad._current_level >= 0


class _Plan(NamedTuple):
    """The steps in their order: "rows" a matrix on axis 1 of (batch * groups, m, n, *size), "cols" one on axis 2,
    "conv" the convolution on axis 2 and the size. ``conv`` holds its arguments."""

    steps: tuple[str, ...]
    rows: tuple[int, int]  # l, m
    cols: tuple[int, int]  # k, n
    conv: dict | None
    groups: int
    scale: float

    def split(self, x: Tensor) -> Tensor:
        m, n = self.rows[1], self.cols[1]
        if self.conv is None:
            return x.reshape(-1, m, n, 1)
        return x.reshape(len(x) * self.groups, m, n, *x.shape[2:])

    def grid(self, y: Tensor) -> Tensor:
        """y, an output or its gradient, as (batch * groups, l / groups, k, *size)."""
        l, k = self.rows[0] // self.groups, self.cols[0]
        if self.conv is None:
            return y.reshape(-1, l, k, 1)
        return y.reshape(len(y) * self.groups, l, k, *y.shape[2:])

    def join(self, z: Tensor, x: Tensor) -> Tensor:
        """The inverse of ``grid``, for the output of the input ``x``."""
        channels = self.rows[0] * self.cols[0]
        return z.reshape(*x.shape[:-1], channels) if self.conv is None else z.reshape(len(x), channels, *z.shape[3:])

    def kind(self, i: int) -> tuple[str, int]:
        """Step i and the groups that its matrix's rows are split into: w1's last has the output's rows."""
        last = self.steps[i] == "rows" and "rows" not in self.steps[i + 1 :]
        return self.steps[i], self.groups if last else 1

    def apply(self, i: int, z: Tensor, matrix: Tensor) -> Tensor:
        step, groups = self.kind(i)
        if step == "conv":
            return conv_step(z, matrix, self._arguments)
        return rows_step(z, matrix, groups) if step == "rows" else cols_step(z, matrix)

    def accumulate(self, y: Tensor, x: Tensor, z: Tensor, matrix: Tensor) -> None:
        """y += scale * (the last step of z), as a product that accumulates where y lies as it has to."""
        step, groups = self.kind(len(self.steps) - 1)
        direct = y.is_contiguous() and y.dtype == z.dtype and groups == 1
        if direct and step == "rows":
            flat = z.flatten(2)
            to = y.view(len(flat), self.rows[0], -1)
            to.baddbmm_(matrix.expand(len(flat), *matrix.shape), flat, alpha=self.scale)
        elif direct and step == "cols" and self.conv is None:
            y.view(-1, self.cols[0]).addmm_(z.reshape(-1, z.shape[2]), matrix.T, alpha=self.scale)
        elif direct and step == "cols":
            flat = z.flatten(3).flatten(0, 1)
            to = y.view(len(flat), self.cols[0], -1)
            to.baddbmm_(matrix.expand(len(flat), *matrix.shape), flat, alpha=self.scale)
        else:
            y.add_(self.join(self.apply(len(self.steps) - 1, z, matrix), x), alpha=self.scale)

    @property
    def _arguments(self) -> dict:
        return {name: self.conv[name] for name in ("stride", "padding", "dilation")}

    def gradients(
        self, i: int, z: Tensor, matrix: Tensor, g: Tensor, of_z: bool, of_matrix: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of step i's input and matrix, from that of its output."""
        step, groups = self.kind(i)
        if step == "conv":
            axes = len(self.conv["stride"])
            arguments = (self.conv[name] for name in ("stride", "padding", "dilation"))
            g_z, g_matrix, _ = torch.ops.aten.convolution_backward(
                g.flatten(0, 1),
                z.flatten(0, 1),
                matrix,
                None,
                *arguments,
                False,
                [0] * axes,
                1,
                [of_z, of_matrix, False],
            )
            return (g_z.unflatten(0, z.shape[:2]) if of_z else None), (g_matrix if of_matrix else None)
        if step == "cols":
            g_z = cols_step(g, matrix.T) if of_z else None
            if not of_matrix:
                return g_z, None
            if z.ndim == 4 and z.shape[3] == 1:
                return g_z, _outer_of_rows(g.reshape(-1, g.shape[2]), z.reshape(-1, z.shape[2]))
            return g_z, _outer(g.flatten(0, 1).flatten(2), z.flatten(0, 1).flatten(2))
        if groups == 1:
            g_z = rows_step(g, matrix.T, 1) if of_z else None
            return g_z, (_outer(g.flatten(2), z.flatten(2)) if of_matrix else None)
        parts, g, shape = matrix.unflatten(0, (groups, -1)), g.flatten(2).unflatten(0, (-1, groups)), z.shape
        z = z.flatten(2).unflatten(0, (-1, groups))
        g_z = torch.matmul(parts.mT, g).reshape(shape) if of_z else None
        return g_z, (torch.matmul(g, z.mT).sum(0).flatten(0, 1) if of_matrix else None)


def _outer(g: Tensor, z: Tensor) -> Tensor:
    """Σ over the batch of g zᵀ: g (batch, p, q), z (batch, r, q) -> (p, r)."""
    p, q, r = *g.shape[1:], z.shape[1]
    if p * r <= 2 * (p + r) * q:
        return torch.bmm(g, z.mT).sum(0)
    return torch.einsum("bpq,brq->pr", g, z)  # as one product, of copies


def _outer_of_rows(g: Tensor, z: Tensor) -> Tensor:
    """gᵀ z: g (positions, p), z (positions, r) -> (p, r). Measured: the shorter side in front is twice as fast."""
    return g.T @ z if g.shape[1] <= z.shape[1] else (z.T @ g).T


class _AddKron(torch.autograd.Function):
    """(y or None, x, plan, the steps' matrices) -> y, which is written to, or the product itself."""

    @staticmethod
    def forward(ctx, y, x, plan, *matrices):
        z = plan.split(x)
        kept: list[Tensor | None] = []
        for i, matrix in enumerate(matrices[:-1]):
            z = plan.apply(i, z, matrix)
            kept.append(z if z.numel() * _KEPT <= x.numel() else None)
        ctx.plan = plan
        ctx.save_for_backward(x, *matrices, *kept)
        if y is None:
            return plan.join(plan.apply(len(matrices) - 1, z, matrices[-1] * plan.scale), x)
        ctx.mark_dirty(y)
        plan.accumulate(y, x, z, matrices[-1])
        return y

    @staticmethod
    def backward(ctx, g):
        plan, saved = ctx.plan, ctx.saved_tensors
        steps = len(plan.steps)
        x, matrices, kept = saved[0], saved[1 : steps + 1], saved[steps + 1 :]
        of_y, of_x, _, *of_matrices = ctx.needs_input_grad
        results: list[Tensor | None] = [None] * steps
        with full_precision(x.device):
            # What was kept has no history, so for a second derivative everything is made again.
            again = torch.is_grad_enabled()
            inputs = [plan.split(x)]
            for i in range(steps - 1):
                z = None if again else kept[i]
                inputs.append(plan.apply(i, inputs[i], matrices[i]) if z is None else z)
            back = plan.grid(g.to(x.dtype))
            for i in reversed(range(steps)):
                # The last step has the scale, so that no pass over an output or its gradient is for it alone.
                scale = plan.scale if i == steps - 1 else 1
                matrix = matrices[i] if scale == 1 else matrices[i] * scale
                onward = of_x or any(of_matrices[:i])
                back, result = plan.gradients(i, inputs[i], matrix, back, onward, of_matrices[i])
                results[i] = result if result is None or scale == 1 else result * scale
                if not onward:
                    break
            g_x = back.reshape(x.shape) if of_x else None
        return (g if of_y else None), g_x, None, *results
