"""One adapter's update of a layer's output, with DoRA and both kinds of dropout."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..kronecker import Factor
from ._products import Products, plus_update
from ._shapes import AdapterShapes


class Update(NamedTuple):
    """What one adapter adds to a layer in one call.

    w1, w2: the factors in the dtype to compute in (see ``as_computed``), as ``shapes`` has them
    scale: of w1 ⊗ w2
    rows: (out,), constants that the rows of dW are multiplied by (rank dropout); None for 1
    ratio, axis: DoRA's c, (out,) for "out", (in,) for "in", a group's; None without DoRA
    present: one number, 0 or 1, that the update is multiplied by (module dropout in a graph); None for 1
    """

    shapes: AdapterShapes
    w1: Factor
    w2: Factor
    scale: float
    rows: Tensor | None = None
    ratio: Tensor | None = None
    axis: str | None = None
    present: Tensor | None = None


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
    shapes, w1, w2, scale, rows, ratio, axis, present = update
    if present is None and axis is None and not shapes.swapped:
        return plus_update(y, products.padded(x), w1, w2, scale, products.conv, in_place, rows)
    if axis == "in" and ratio is not None:
        ratio = products.by_channel(ratio.repeat(products.groups))  # (in, 1, ...)
        result = products.update(shapes, x * ratio, w1, w2, scale, rows) + products.base(x * (ratio - 1), weight)
    else:
        result = products.update(shapes, x, w1, w2, scale, rows)
    if axis == "out" and ratio is not None:
        ratio = products.by_channel(ratio)  # (out, 1, ...)
        plain = base if bias is None else base - products.by_channel(bias)
        result = plain * (ratio - 1) + result * ratio
    if present is not None:  # a graph has no branches
        result = result * present.to(result.device)
    return (y + result).to(y.dtype)
