"""(w1 ⊗ w2) x without the product: as a new tensor, added in place, and as an embedding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import LoKrShapeError
from ._chain import planned, run, run_into_
from ._factor import Factor
from ._steps import F_CONV, Plan
from ._tiles import kron


def apply_kron(
    x: Tensor,
    w1: Factor | Tensor,
    w2: Factor | Tensor,
    scale: float | Tensor = 1.0,
    *,
    stride: int | tuple[int, ...] = 1,
    padding: int | str | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> Tensor:
    """``scale * (w1 ⊗ w2) x`` without the product, in x's dtype and on x's device, differentiable.

    w1: (l, m), w2: (k, n) or (k, n, *kernel), tensors or ``Factor``s; low-rank and Tucker factors are never built. A
    w2 whose file flattened the kernel has to be given its axes first (``fit``).
    x: (..., m*n) for a Linear; (batch, groups*m*n, *size) or one sample without the batch axis for a convolution, with
    the arguments of ``torch.nn.functional.conv*d``. The weight w1 ⊗ w2 is (l*k, m*n, *kernel).

    Returns (..., l*k) or (batch, l*k, *size'). Raises LoKrShapeError if x has another number of channels.

    >>> x, w1, w2 = torch.randn(5, 6), torch.randn(4, 2), torch.randn(2, 3)
    >>> torch.allclose(apply_kron(x, w1, w2), x @ torch.kron(w1, w2).T, atol=1e-5)
    True
    """
    w1, w2 = _ready(x, w1, w2)
    kernel = w2.kernel
    given = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    conv: dict[str, Any] | None = given if kernel else None
    _check_input(x, w1, w2, conv)
    if conv and x.ndim == len(kernel) + 1:  # one sample, as torch's own convolutions take it
        return apply_kron(x[None], w1, w2, scale, **conv)[0]
    if conv and w1.shape[0] % groups:
        # Rows of w1 straddle two groups: such a grouped weight is small, so it is built.
        return F_CONV[len(kernel)](x, kron(w1.materialize(), w2.materialize()) * scale, None, **conv)
    # Few ranks in front pay where the last product accumulates.
    plan, matrices = planned(w1.matrices, w2.matrices, conv, few_ranks=0)
    if not (isinstance(scale, (int, float)) and scale == 1):
        sizes = [matrix.numel() for matrix in matrices]
        smallest = sizes.index(min(sizes))
        matrices[smallest] = matrices[smallest] * scale
    return run(plan, x, matrices)


@torch.no_grad()
def accumulate_kron_(
    y: Tensor,
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
    """``y += scale * (w1 ⊗ w2) x`` in place; returns ``y``. Shapes and errors as for ``apply_kron``.

    y: (..., l*k) or (batch, l*k, *size'), any strides: a slice of the last axis, or of the channels, is fine.
    Computed in x's dtype. Not recorded by autograd. Extra memory is at most a quarter of y's or a few MiB, whichever
    is more; for a factored w2 far less.

    >>> x, w1, w2, y = torch.randn(5, 6), torch.randn(4, 2), torch.randn(2, 3), torch.zeros(5, 8)
    >>> torch.allclose(accumulate_kron_(y, x, w1, w2, 0.5), apply_kron(x, w1, w2, 0.5), atol=1e-5)
    True
    """
    w1, w2 = _ready(x, w1, w2)
    if not w2.kernel:
        PlannedLinear(w1, w2)(y, x, scale)
        return y
    conv: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    PlannedConv(w1, w2, conv)(y, x, scale)
    return y


class PlannedLinear:
    """``accumulate_kron_`` for a Linear, planned once for factors that stay.

    w1 (l, m), w2 (k, n): without a kernel, on the device and in the dtype of the inputs it is called with.

    >>> x, w1, w2, y = torch.randn(5, 6), torch.randn(4, 2), torch.randn(2, 3), torch.zeros(5, 8)
    >>> PlannedLinear(Factor(w1), Factor(w2))(y, x, 0.5)
    >>> torch.allclose(y, apply_kron(x, w1, w2, 0.5), atol=1e-5)
    True
    """

    __slots__ = ("channels", "matrices", "plan", "rows", "w1", "w2")

    def __init__(self, w1: Factor, w2: Factor):
        self.w1, self.w2 = w1, w2
        self.plan, self.matrices = planned(w1.matrices, w2.matrices, None)
        self.rows, self.channels = w1.shape[0] * w2.shape[0], w1.shape[1] * w2.shape[1]

    def __call__(self, y: Tensor, x: Tensor, scale: float = 1.0) -> None:
        """y (..., l*k) += scale * (w1 ⊗ w2) x, for x (..., m*n). Errors as for ``apply_kron``.

        Autograd must be off, or none of the tensors need a gradient.
        """
        if x.ndim == 0 or x.size(-1) != self.channels:
            _check_input(x, self.w1, self.w2, None)
        if y.shape == (*x.shape[:-1], self.rows):
            run_into_(self.plan, y, x, self.matrices, scale)
        else:  # y is broadcast against, or refused by torch
            y.add_(run(self.plan, x, self.matrices), alpha=scale)


class PlannedConv:
    """``accumulate_kron_`` for a convolution, planned once for factors that stay.

    w1 (l, m), w2 (k, n, *kernel): on the device and in the dtype of the inputs it is called with
    conv: stride, padding, dilation and groups, as ``torch.nn.functional.conv*d`` takes them
    """

    __slots__ = ("channels", "conv", "matrices", "plan", "w1", "w2")

    def __init__(self, w1: Factor, w2: Factor, conv: dict[str, Any]):
        self.w1, self.w2, self.conv = w1, w2, conv
        self.channels = w1.shape[1] * w2.shape[1] * conv["groups"]
        self.plan: Plan | None = None
        if w1.shape[0] % conv["groups"] == 0:  # else rows of w1 straddle two groups
            self.plan, self.matrices = planned(w1.matrices, w2.matrices, conv)

    def __call__(self, y: Tensor, x: Tensor, scale: float = 1.0) -> None:
        """y (batch, l*k, *size') += scale * (w1 ⊗ w2) x, for x (batch, groups*m*n, *size). Errors as ``apply_kron``."""
        if self.plan is not None and y.ndim == x.ndim == len(self.w2.kernel) + 2 and x.size(1) == self.channels:
            run_into_(self.plan, y, x, self.matrices, scale)
        else:
            y.add_(apply_kron(x, self.w1, self.w2, scale, **self.conv))


def embed_kron(index: Tensor, w1: Factor | Tensor, w2: Factor | Tensor, dtype: torch.dtype) -> Tensor:
    """Rows ``index`` (...) of w1 (l, m) ⊗ w2 (k, n), an embedding's update: (..., m*n) in ``dtype``.

    >>> w1, w2 = torch.randn(2, 3), torch.randn(4, 5)
    >>> torch.allclose(embed_kron(torch.tensor([6, 1]), w1, w2, torch.float32), torch.kron(w1, w2)[[6, 1]])
    True
    """
    w1, w2 = (Factor.of(f).without_kernel().to(index.device, dtype) for f in (w1, w2))
    k = w2.shape[0]  # row i*k + j of the product is made of row i of w1 and row j of w2
    first = _rows_at(w1, torch.div(index, k, rounding_mode="floor"))  # (..., m)
    second = _rows_at(w2, index % k)  # (..., n)
    return (first.unsqueeze(-1) * second.unsqueeze(-2)).flatten(-2)


def _rows_at(factor: Factor, index: Tensor) -> Tensor:
    """Rows ``index`` (...) of a factor (rows, cols): (..., cols)."""
    if factor.whole is not None:
        return factor.whole[index]
    a, b = factor.halves
    return a[index] @ b


def _ready(x: Tensor, w1: Factor | Tensor, w2: Factor | Tensor) -> tuple[Factor, Factor]:
    """Both factors on x's device in its dtype, w1 as a matrix; factors that are there already are not copied."""
    w1, w2 = (f if _is_there(f, x) else f.to(device=x.device, dtype=x.dtype) for f in (Factor.of(w1), Factor.of(w2)))
    return w1.without_kernel(), w2


def _is_there(factor: Factor, x: Tensor) -> bool:
    tensors = (factor.whole, factor.a, factor.b, factor.t)
    return all(t is None or (t.dtype == x.dtype and t.device == x.device) for t in tensors)


def _check_input(x: Tensor, w1: Factor, w2: Factor, conv: dict[str, Any] | None) -> None:
    """Raises LoKrShapeError if x has another number of channels: reshaping could take it for more or fewer inputs."""
    channels = w1.shape[1] * w2.shape[1] * (conv["groups"] if conv else 1)
    axes = len(w2.kernel)
    axis = (0 if x.ndim == axes + 1 else 1) if conv else -1
    if x.ndim == 0 or (conv and x.ndim not in (axes + 1, axes + 2)) or x.shape[axis] != channels:
        raise LoKrShapeError(
            "The input does not fit the factors",
            expected=f"{channels} channels on axis {axis} for w1 {w1.shape}, w2 {w2.shape}",
            found=f"input {tuple(x.shape)}",
        )
