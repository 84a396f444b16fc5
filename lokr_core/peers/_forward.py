"""``FastForward``: what stands in the place of a LoKr layer's own forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import Tensor, nn

from .._layers import kernel_axes, shape_of
from ..kronecker import fused_linear, is_compiling, plain_autograd
from ..trainable import AdapterShapes, Products, Update, added, as_computed, planned_linear

_PLAIN = (Tensor, nn.Parameter)


class FastForward:
    """The forward of one LoKr layer of another library, from the layer's factors; its parameters are read in each call.

    layer: the LoKr layer; base: the Linear or convolution that it adapts
    on: whether it computes; else it calls the layer's own forward, as it does in calls that it cannot compute
    """

    def __init__(self, layer: nn.Module, base: nn.Module):
        self.layer: Any = layer
        self.base = base
        self.on = True
        self.weight_shape = cast("tuple[int, ...]", shape_of(base))
        axes = kernel_axes(base)
        arguments = ("stride", "padding", "dilation", "groups")
        # Every family hands these to the convolution as they are, and none of them knows a padding_mode.
        self.products = Products(axes, {name: getattr(base, name) for name in arguments} if axes else None, None)
        self._shapes: dict[tuple, AdapterShapes] = {}

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's output for the input ``x``, (..., in) or (batch, in, *size)."""
        if self.on and type(x) in _PLAIN:
            result = self.fast(x, args, kwargs)
            if result is not None:
                return result
        return self.own(x, *args, **kwargs)

    def own(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's own forward."""
        return type(self.layer).forward(self.layer, x, *args, **kwargs)

    def fast(self, x: Tensor, args: tuple, kwargs: dict) -> Tensor | None:
        """The output from the factors; None if this call cannot be computed so, before anything is drawn."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises ValueError, with a reason, if the layer's factors cannot be computed with."""
        raise NotImplementedError

    def shapes(self, tensors: Mapping[str, Tensor], swappable: bool = False) -> AdapterShapes:
        """The shapes of the factors in ``tensors``; ``swappable``: whether a Conv1d's dW is W2 ⊗ W1, as PEFT's."""
        key = tuple((kind, tensor.shape) for kind, tensor in tensors.items())
        found = self._shapes.get(key)
        if found is None:
            found = self._shapes[key] = shapes_of(tensors, self.weight_shape, swappable)
        return found

    def plus(
        self,
        call: Callable[..., Tensor],
        plain: nn.Module | None,
        x: Tensor,
        tensors: Mapping[str, Tensor],
        shapes: AdapterShapes,
        scale: float,
        rows: Tensor | None,
        args: tuple = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """The base's output plus ``rows * scale * dW x``: of a frozen plain Linear as one function.

        call: the base's forward; plain: the layer whose own forward that is, None if it is another function
        """
        if plain is not None and not self.products.axes and not args and not kwargs and plain_autograd(x):
            plan, kinds = planned_linear(shapes)
            fused = fused_linear(plain, x, plan, [tensors[kind] for kind in kinds], scale, lambda: rows)
            if fused is not None:
                return fused
        y = call(x, *args, **(kwargs or {}))
        update = Update(*as_computed(x, *shapes.factors(tensors)), scale, rows)
        return self.added(update, x, y, plain is not None)

    def added(self, update: Update, x: Tensor, y: Tensor, in_place: bool) -> Tensor:
        """``y``, the base's output, plus an update without DoRA; ``in_place``: whether y may be overwritten."""
        return added(update, self.products, x, y, y, y, None, in_place)


def shapes_of(tensors: Mapping[str, Tensor], weight: tuple[int, ...], swappable: bool = False) -> AdapterShapes:
    """The shapes of the factors in ``tensors``, by LyCORIS' names, for a ``weight`` (out, columns, *kernel).

    Raises ValueError if they are not factors of such a weight.

    >>> shapes_of({"lokr_w1": torch.ones(2, 2), "lokr_w2": torch.ones(2, 3)}, (4, 6)).k
    2
    """
    out, columns, *kernel = weight
    w1, w2, core = tensors.get("lokr_w1"), tensors.get("lokr_w2"), tensors.get("lokr_t2")
    l, m = w1.shape if w1 is not None else (len(tensors["lokr_w1_a"]), tensors["lokr_w1_b"].shape[1])
    if out % l or columns % m:
        raise ValueError(f"w1 ({l}, {m}) is no factor of a weight {weight}")
    found = AdapterShapes(
        *(l, out // l, m, columns // m, tuple(kernel)),
        r1=None if w1 is not None else tensors["lokr_w1_b"].shape[0],
        r2=None if w2 is not None else tensors["lokr_w2_b"].shape[0],
        tucker=core is not None,
        swapped=swappable and w2 is not None and len(kernel) == 1,
        tucker_tail=core is not None and core.ndim > len(kernel) + 2,
    )
    held = {kind: tuple(tensor.shape) for kind, tensor in tensors.items()}
    if held != found.tensors:
        raise ValueError(f"{held} are no factors of a weight {weight}")
    return found


def chosen(present: Tensor, p: float) -> Tensor | bool:
    """Whether module dropout of ``p`` leaves an update in, drawn as ``present``: in a graph, which has no branches, a
    number that the update is multiplied by, else a truth value."""
    if is_compiling():
        return present if p else True
    return bool(present)
