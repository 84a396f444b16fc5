"""An update as ComfyUI wants a patch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from comfy.weight_adapter import WeightAdapterBase

from ..lokr_core.adapter import LoKrWeights
from ..lokr_core.errors import LoKrShapeError
from ..lokr_core.kronecker import Factor

__all__ = ["LoKrPatch"]


class LoKrPatch(WeightAdapterBase):
    """One module's update, added into the copy of a weight that ComfyUI is about to use.

    ComfyUI moves a patch by rebuilding it as ``type(self)(self.loaded_keys, weights)`` with every tensor inside
    ``weights`` (nested tuples) replaced, so these two are all the state there is.
    """

    name = "lokr"

    def __init__(self, loaded_keys: set[str], weights: tuple):
        self.loaded_keys = loaded_keys
        self.weights = weights

    @classmethod
    def of(cls, module: str, lokr: LoKrWeights) -> LoKrPatch:
        w1, w2 = ((f.whole, f.a, f.b, f.t) for f in (lokr.w1, lokr.w2))
        return cls({module}, (w1, w2, lokr.dora_scale, lokr.scaling))

    @property
    def lokr(self) -> LoKrWeights:
        w1, w2, dora_scale, scaling = self.weights
        return LoKrWeights(Factor(*w1), Factor(*w2), scaling, dora_scale)

    def calculate_weight(
        self,
        weight,
        key,
        strength,
        strength_model,
        offset,
        function,
        intermediate_dtype=torch.float32,
        original_weight=None,
    ):
        """ComfyUI's call: ``weight`` is its own copy (or the slice of it that ``offset`` names), changed in place."""
        order = _row_order(function, weight.shape[0])
        view = weight.unsqueeze(1) if weight.ndim == 1 else weight  # a bias or a norm: updates have two axes
        if order is None:
            self.lokr.add_to_(view, strength)
            return weight
        order = order.to(weight.device)
        own = torch.empty_like(view)
        own[order] = view
        view.copy_(self.lokr.add_to_(own, strength)[order])
        return weight


def _row_order(function: Callable, rows: int) -> torch.Tensor | None:
    """Which row of an update each row of the host's weight takes, None where all stay in place.

    A key of ComfyUI's may carry a function that brings an update into the order of its own weight, as for the halves
    of ``norm_out.linear``. What it does to the rows is seen by giving it their numbers.
    """
    numbers = torch.arange(rows)
    order = function(numbers.unsqueeze(1)).flatten()
    if torch.equal(order, numbers):
        return None
    if not torch.equal(order.sort().values, numbers):
        raise LoKrShapeError("ComfyUI maps this weight by more than an order of rows", found=function)
    return order
