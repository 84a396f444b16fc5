"""y = (w1 ⊗ w2) x, factored: for Linear inputs, as a convolution, and as an embedding.

With X = x as (m, n): (w1 ⊗ w2) x = w1 X w2^T. Both factors are chains of one to three matrices (whole: one, low-rank:
b then a, Tucker: b, core, a), one chain acts on X's first axis and the other on its second, and the two can be
interleaved in any order. ``ordered`` finds the cheapest order by counting multiplications.

``apply_kron`` gives the result by itself, differentiable; accumulate.py adds it to what is there.
"""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import LoKrShapeError
from ._add import materialize
from ._chain import ordered
from ._factor import Factor

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}

# Numbers of an input up to which a CPU multiplies few rows by it fast.
_FEW_ROWS = 3 << 18


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

    Linear, w2 (k, n): x (..., m*n) -> (..., l*k)
    convolution, w2 (k, n, *kernel): x (batch, groups*m*n, *size) -> (batch, l*k, *size'), with the arguments of
    ``torch.nn.functional.conv*d``, the batch axis may be missing; the weight w1 ⊗ w2 is (l*k, m*n, *kernel).
    w1: (l, m); both may be low-rank or Tucker ``Factor``s and stay so. A w2 whose file flattened the kernel has to
    be given its axes first (``fit``). Raises LoKrShapeError where x has another number of channels.

    >>> x, w1, w2 = torch.randn(5, 6), torch.randn(4, 2), torch.randn(2, 3)
    >>> torch.allclose(apply_kron(x, w1, w2), x @ torch.kron(w1, w2).T, atol=1e-5)
    True
    """
    w1, w2 = ready(x, w1, w2)
    (l, m), (k, n, *kernel) = w1.shape, w2.shape
    w1, w2 = _scaled(w1, w2, scale)
    if not kernel:
        check_input(x, -1, m * n, w1, w2)
        lead = x.shape[:-1]
        y = _apply(x.reshape(prod(lead), m, n, 1), w1, w2, 1, None)
        return y.reshape(*lead, l * k)
    conv = {"stride": stride, "padding": padding, "dilation": dilation}
    if x.ndim == len(kernel) + 1:  # one sample without a batch axis, as torch's own convolutions take it
        return apply_kron(x[None], w1, w2, groups=groups, **conv)[0]
    check_input(x, 1, groups * m * n, w1, w2)
    if l % groups:
        # Rows of w1 straddle two groups: such a grouped weight is small, so it is built.
        return CONV[len(kernel)](x, materialize(w1, w2), groups=groups, **conv)
    batch, _, *size = x.shape
    y = _apply(x.reshape(batch * groups, m, n, *size), w1, w2, groups, conv)
    return y.reshape(batch, l * k, *y.shape[3:])


def embed_kron(index: Tensor, w1: Factor | Tensor, w2: Factor | Tensor, dtype: torch.dtype) -> Tensor:
    """Rows ``index`` (...) of w1 (l, m) ⊗ w2 (k, n), an embedding's update: (..., m*n) in ``dtype``.

    >>> w1, w2 = torch.randn(2, 3), torch.randn(4, 5)
    >>> torch.allclose(embed_kron(torch.tensor([6, 1]), w1, w2, torch.float32), torch.kron(w1, w2)[[6, 1]])
    True
    """
    w1, w2 = (Factor.of(f).without_kernel().to(index.device, dtype) for f in (w1, w2))
    first = torch.div(index, w2.shape[0], rounding_mode="floor")
    first, second = (
        f.whole[at] if f.whole is not None else f.a[at] @ f.b for f, at in ((w1, first), (w2, index % w2.shape[0]))
    )
    return (first.unsqueeze(-1) * second.unsqueeze(-2)).flatten(-2)


def ready(x: Tensor, w1: Factor | Tensor, w2: Factor | Tensor) -> tuple[Factor, Factor]:
    """Both factors on x's device in its dtype; no call is made for those that are there already."""
    w1, w2 = (f if _is_there(f, x) else f.to(device=x.device, dtype=x.dtype) for f in (Factor.of(w1), Factor.of(w2)))
    return w1.without_kernel(), w2


def _is_there(factor: Factor, x: Tensor) -> bool:
    dtype, device = x.dtype, x.device
    tensors = (factor.whole, factor.a, factor.b, factor.t)
    return all(t is None or (t.dtype == dtype and t.device == device) for t in tensors)


def _scaled(w1: Factor, w2: Factor, scale: float | Tensor) -> tuple[Factor, Factor]:
    """The factors with ``scale`` in the smallest of their tensors."""
    if isinstance(scale, (int, float)) and scale == 1:
        return w1, w2
    sizes = [(tensor.numel(), i, name) for i, f in enumerate((w1, w2)) for name, tensor in f.tensors.items()]
    _, i, name = min(sizes)
    factors = [w1, w2]
    tensors = factors[i].tensors
    factors[i] = Factor(**{**tensors, name: tensors[name] * scale})
    return factors[0], factors[1]


def check_input(x: Tensor, axis: int, channels: int, w1: Factor, w2: Factor, lenient: bool = False) -> None:
    """LoKrShapeError where x has another number of channels: reshaping could take it for another number of inputs."""
    if lenient and axis == 1 and x.ndim == len(w2.kernel) + 1:
        axis = 0  # one sample without a batch axis
    if x.ndim == 0 or (axis == 1 and x.ndim != len(w2.kernel) + 2) or x.shape[axis] != channels:
        raise LoKrShapeError(
            "The input does not fit the factors",
            expected=f"{channels} channels on axis {axis} for w1 {w1.shape}, w2 {w2.shape}",
            found=f"input {tuple(x.shape)}",
        )


def _apply(x: Tensor, w1: Factor, w2: Factor, groups: int, conv: dict | None) -> Tensor:
    """x (batch * groups, m, n, *size) -> (batch * groups, l / groups, k, *size')."""
    chain1, chain2, kernels, order = ordered(w1, w2, conv)
    todo1, todo2 = iter(enumerate(chain1)), iter(zip(chain2, kernels, strict=True))
    for which in order:
        if which == "1":
            i, matrix = next(todo1)
            x = rows_step(x, matrix, groups if i == len(chain1) - 1 else 1)
        else:
            matrix, at_kernel = next(todo2)
            x = conv_step(x, matrix, conv) if at_kernel else cols_step(x, matrix.flatten(1))
    return x


def rows_step(x: Tensor, matrix: Tensor, groups: int) -> Tensor:
    """matrix (m', m) on axis 1 of x (batch * groups, m, n, *size); with groups, each has its own rows of matrix."""
    flat = x.flatten(2)
    if groups == 1:
        y = torch.matmul(matrix, flat)
    else:
        y = torch.matmul(matrix.unflatten(0, (groups, -1)), flat.unflatten(0, (-1, groups))).flatten(0, 1)
    return y.unflatten(2, x.shape[2:])


def cols_step(x: Tensor, matrix: Tensor) -> Tensor:
    """matrix (n', n) on axis 2 of x (batch, m, n, *size)."""
    if x.ndim == 4 and x.shape[3] == 1:
        return (x.squeeze(3) @ matrix.T).unsqueeze(3)
    return torch.matmul(matrix, x.flatten(3)).unflatten(3, x.shape[3:])


def conv_step(x: Tensor, weight: Tensor, conv: dict) -> Tensor:
    """The convolution with weight (n', n, *kernel) on axis 2 of x (batch, m, n, *size)."""
    y = CONV[weight.ndim - 2](x.flatten(0, 1), weight, **conv)
    return y.unflatten(0, x.shape[:2])


def ranks_step(x: Tensor, matrix: Tensor) -> Tensor:
    """matrix (rank, n) on axis 2 of x (positions, m, n), contiguous, with the rank in front: (rank, positions, m)."""
    parts = -(-x.numel() // _FEW_ROWS) if x.device.type == "cpu" else 1
    flat = x.view(-1, x.size(2))
    if parts == 1:
        y = torch.mm(matrix, flat.T)
    else:
        y = torch.cat([torch.mm(matrix, part.T) for part in flat.chunk(parts)], 1)
    return y.view(-1, *x.shape[:2])
