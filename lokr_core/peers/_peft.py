"""PEFT's LoKr layers (``peft/tuners/lokr/layer.py``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..kronecker import untouched
from ..trainable import FACTORS, AdapterShapes, Update, as_computed, random_rows
from ._forward import FastForward, chosen


class PeftForward(FastForward):
    """Adds each active adapter's update to the output of ``layer.base_layer``.

    PEFT draws on the CPU, one number in each call of a layer in training even without module dropout; its rank dropout
    rescales if it is told to; and it computes in the adapter's dtype, then casts to the input's.
    """

    def fast(self, x: Tensor, args: tuple, kwargs: dict) -> Tensor | None:
        layer = self.layer
        if layer.disable_adapters or layer.merged:
            return None
        held = {name: tensors for name in layer.active_adapters if (tensors := adapter_tensors(layer, name))}
        if not held:
            return None
        base = layer.base_layer
        plain = base if untouched(base) else None
        if len(held) == 1 and plain is not None:
            return self._only(next(iter(held)), next(iter(held.values())), plain, x, args, kwargs).to(x.dtype)
        y = first = base(x, *args, **kwargs)
        for name, tensors in held.items():
            y = self._plus(name, tensors, x, y, plain is not None or y is not first)
        return y.to(x.dtype)

    def check(self) -> None:
        for name in self.layer.scaling:
            if tensors := adapter_tensors(self.layer, name):
                self.shapes(tensors, swappable=True)

    def _only(
        self, name: str, tensors: dict[str, Tensor], base: nn.Module, x: Tensor, args: tuple, kwargs: dict
    ) -> Tensor:
        """The base's output plus a single adapter's update."""
        present, shapes = self._present(name), self.shapes(tensors, swappable=True)
        if present is False:
            return base(x, *args, **kwargs)
        if isinstance(present, Tensor) or shapes.swapped:
            update = self._update(name, tensors, shapes, x, present)
            return self.added(update, x, base(x, *args, **kwargs), True)
        rows = self._rows(name, x)
        return self.plus(base, base, x, tensors, shapes, self.layer.scaling[name], rows, args, kwargs)

    def _plus(self, name: str, tensors: dict[str, Tensor], x: Tensor, y: Tensor, in_place: bool) -> Tensor:
        present = self._present(name)
        if present is False:
            return y
        return self.added(self._update(name, tensors, self.shapes(tensors, swappable=True), x, present), x, y, in_place)

    def _update(
        self, name: str, tensors: dict[str, Tensor], shapes: AdapterShapes, x: Tensor, present: Tensor | bool
    ) -> Update:
        factors, rows = as_computed(x, *shapes.factors(tensors)), self._rows(name, x)
        drawn = present if isinstance(present, Tensor) else None
        return Update(*factors, self.layer.scaling[name], rows, present=drawn, swapped=shapes.swapped)

    def _present(self, name: str) -> Tensor | bool:
        """Whether module dropout leaves the adapter in: in a graph a number, else a truth value."""
        layer = self.layer
        if not layer.training:
            return True
        return chosen(torch.rand(1) > layer.module_dropout[name], layer.module_dropout[name])

    def _rows(self, name: str, x: Tensor) -> Tensor | None:
        layer: Any = self.layer
        p = layer.rank_dropout[name]
        if not (layer.training and p):
            return None
        drawn = torch.rand(self.weight_shape[0])
        return random_rows(drawn, p, torch.float32, layer.rank_dropout_scale[name]).to(x.device)


def adapter_tensors(layer: Any, name: str) -> dict[str, Tensor]:
    """An adapter's parameters by kind; empty if the layer does not have it."""
    modules: dict[str, Any] = layer._modules  # without `Module.__getattr__`, which is measurable on small layers
    return {kind: modules[kind][name] for kind in FACTORS if name in modules[kind]}
