"""What a weight does to an input, as a Linear or as a convolution with its padding: W x, and dW x from the factors,
which is added to an output with DoRA and both kinds of dropout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .._layers import padded
from ..kronecker import (
    F_CONV,
    Factor,
    accumulate_kron_,
    apply_kron,
    autocast_dtype,
    followed,
    full_precision,
    kron,
    plus_kron,
    reversed_kron,
)


@dataclass(frozen=True)
class Products:
    """A layer's products with weights (out, in, *kernel), for inputs (..., in) or (batch, in, *size).

    axes: of the kernel, 0 for a Linear; conv, padding: as ``convolution`` gives them, None for a Linear
    """

    axes: int
    conv: dict[str, Any] | None
    padding: tuple[Any, ...] | None

    @property
    def groups(self) -> int:
        return 1 if self.conv is None else self.conv["groups"]

    def padded(self, x: Tensor) -> Tensor:
        """``x`` with the padding that the convolution's arguments leave to ``F.pad``."""
        return padded(x, self.padding)

    def by_channel(self, values: Tensor) -> Tensor:
        """values (channels,) as (channels, 1, ...), to multiply an input or an output by."""
        return values.view(-1, *(1,) * self.axes)

    def base(self, x: Tensor, weight: Tensor) -> Tensor:
        """W x, without the bias."""
        x = self.padded(x).to(weight.dtype)
        return F.linear(x, weight) if self.conv is None else F_CONV[self.axes](x, weight, **self.conv)

    def update(
        self, x: Tensor, w1: Factor, w2: Factor, scale: float, kept: Tensor | None, swapped: bool = False
    ) -> Tensor:
        """scale * (w1 ⊗ w2) x, its rows multiplied by ``kept`` (out,) unless None; w2 ⊗ w1 if ``swapped``."""
        x = self.padded(x)
        if not swapped:
            return plus_update(None, x, w1, w2, scale, self.conv, rows=kept)
        if self.groups > 1:  # rows of W2 belong to the groups, not of W1: PEFT's way, and rare
            weight = built_kron(w1, w2, swapped) * scale
            update = F_CONV[self.axes](x.to(weight.dtype), weight, **self.conv or {})
        else:
            # W2 ⊗ W1 is W1 ⊗ W2 with the two halves of each axis exchanged.
            axis = x.ndim - 1 - self.axes
            (l, m), (k, n) = w1.shape, w2.shape[:2]
            x = _exchanged(x, axis, n, m)
            update = _exchanged(plus_update(None, x, w1, w2, scale, self.conv), axis, l, k)
        return update if kept is None else update * self.by_channel(kept.to(update.dtype))


def plus_update(
    y: Tensor | None,
    x: Tensor,
    w1: Factor,
    w2: Factor,
    scale: float,
    conv: dict[str, Any] | None = None,
    in_place: bool = False,
    rows: Tensor | None = None,
) -> Tensor:
    """``y + rows * scale * (w1 ⊗ w2) x`` in y's dtype, computed in the factors', differentiable any number of times.

    y: (..., l*k) or (batch, l*k, *size'), None for 0; x: (..., m*n) or (batch, groups*m*n, *size), in any dtype
    w1: (l, m) without a kernel, w2: (k, n) or (k, n, *kernel), in one dtype and on x's device
    conv: the arguments of a convolution (stride, padding, dilation, groups), numbers for each axis; None for a Linear
    in_place: whether y may be overwritten; the result is then y or a view of the same memory
    rows: (l*k,), constant factors for the rows of the product (rank dropout); None for 1

    Under ``torch.compile``, inside ``torch.func`` and in forward mode it consists of plain operations, which those
    transform by themselves; elsewhere it is ``plus_kron``, and without gradients ``accumulate_kron_``.

    >>> x, w1, w2, y = torch.randn(5, 6), torch.randn(4, 2), torch.randn(2, 3), torch.randn(5, 8)
    >>> torch.allclose(plus_update(y, x, Factor(w1), Factor(w2), 0.5), y + 0.5 * x @ torch.kron(w1, w2).T, atol=1e-5)
    True
    """
    x = x.to(w1.dtype)
    groups, axes = (1, 0) if conv is None else (conv["groups"], len(conv["stride"]))
    with full_precision(x.device):
        if followed() or x.numel() == 0 or w1.shape[0] % groups or (axes and x.ndim != axes + 2):
            update = apply_kron(x, w1, w2, scale, **(conv or {}))
            if rows is not None:
                update = update * rows.to(x.dtype).view(-1, *(1,) * axes)
            return update if y is None else (y + update).to(y.dtype)
        if in_place and y is not None and rows is None and not torch.is_grad_enabled():
            return accumulate_kron_(y, x, w1, w2, scale, **(conv or {}))
        return plus_kron(y if in_place or y is None else y.clone(), x, w1, w2, scale, conv, rows)


def built_kron(w1: Factor, w2: Factor, swapped: bool) -> Tensor:
    """w1 ⊗ w2, or w2 ⊗ w1 if ``swapped``: (out, columns, *kernel), differentiable."""
    return (reversed_kron if swapped else kron)(w1.materialize(), w2.materialize())


def _exchanged(x: Tensor, axis: int, first: int, second: int) -> Tensor:
    """x (..., first * second, ...) as (..., second * first, ...)."""
    return x.unflatten(axis, (first, second)).transpose(axis, axis + 1).flatten(axis, axis + 1)


def as_computed(x: Tensor, w1: Factor, w2: Factor) -> tuple[Factor, Factor]:
    """The factors in the dtype to compute in: autocast's if it is on, else their own (as PEFT, ``F.linear``)."""
    dtype = autocast_dtype(x.device)
    if dtype is None or x.dtype == torch.float64:
        return w1, w2
    return w1.to(dtype), w2.to(dtype)


class Update(NamedTuple):
    """What one adapter adds to a layer in one call.

    w1, w2: the factors in the dtype to compute in (see ``as_computed``)
    scale: of w1 ⊗ w2, or with ``swapped`` of w2 ⊗ w1
    rows: (out,), constants that the rows of dW are multiplied by (rank dropout); None for 1
    ratio, axis: DoRA's c, (out,) for "out", (in,) for "in", a group's; None without DoRA
    present: one number, 0 or 1, that the update is multiplied by (module dropout in a graph); None for 1
    """

    w1: Factor
    w2: Factor
    scale: float
    rows: Tensor | None = None
    ratio: Tensor | None = None
    axis: str | None = None
    present: Tensor | None = None
    swapped: bool = False


def added(
    update: Update,
    products: Products,
    x: Tensor,
    y: Tensor,
    base: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    in_place: bool,
) -> Tensor:
    """``y`` plus the update for the input ``x``, in y's dtype.

    x: (..., in) or (batch, in, *size); y, base: (..., out) or (batch, out, *size')
    base: the layer's own output W x + b, which DoRA refers to; in_place: whether y may be overwritten

    With DoRA's c, the update is (c - 1) W x + c dW x for rows, and W ((c - 1) x) + dW (c x) for columns.
    """
    w1, w2, scale, rows, ratio, axis, present, swapped = update
    if present is None and axis is None and not swapped:
        return plus_update(y, products.padded(x), w1, w2, scale, products.conv, in_place, rows)
    if axis == "in" and ratio is not None:
        ratio = products.by_channel(ratio.repeat(products.groups))  # (in, 1, ...)
        result = products.update(x * ratio, w1, w2, scale, rows, swapped) + products.base(x * (ratio - 1), weight)
    else:
        result = products.update(x, w1, w2, scale, rows, swapped)
    if axis == "out" and ratio is not None:
        ratio = products.by_channel(ratio)  # (out, 1, ...)
        plain = base if bias is None else base - products.by_channel(bias.to(base.dtype))
        result = plain * (ratio - 1) + result * ratio
    if present is not None:  # a graph has no branches
        result = result * present.to(result.device)
    return (y + result).to(y.dtype)


def random_rows(drawn: Tensor, p: float, dtype: torch.dtype, rescaled: bool) -> Tensor:
    """Rank dropout's factors for the rows of dW, (out,): 0 where what was ``drawn`` is not above ``p``; ``rescaled``:
    of mean 1."""
    kept = (drawn > p).to(dtype)
    return kept / kept.mean() if rescaled else kept
