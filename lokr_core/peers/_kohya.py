"""sd-scripts' and musubi-tuner's ``networks.lokr``, and ai-toolkit's LokrModule."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..trainable import random_rows
from ._flat import FlatForward
from ._forward import chosen


class KohyaForward(FlatForward):
    """sd-scripts' and musubi-tuner's ``networks.lokr``: LoKrModule, and LoKrInfModule, which can be switched off.

    Both call the base first. Rank dropout draws on the factors' device, and what it keeps is divided by 1 - p.
    """

    def awake(self) -> dict[str, Any]:
        return super().awake() | ({"enabled": True} if hasattr(self.layer, "enabled") else {})

    def fast(self, x: Tensor, args: tuple, kwargs: dict) -> Tensor | None:
        layer, scale = self.layer, self.layer.scale * self.layer.multiplier
        if args or kwargs or not isinstance(scale, (int, float)) or not getattr(layer, "enabled", True):
            return None
        present: Tensor | bool = True
        if layer.training and layer.module_dropout is not None:
            present = chosen(~(torch.rand(1) < layer.module_dropout), layer.module_dropout)
            if present is False:
                return layer.org_forward(x)
        tensors, rows = self.tensors(), None
        if layer.training and layer.rank_dropout is not None:
            device = next(iter(tensors.values())).device
            rows = random_rows(torch.rand(self.weight_shape[0], device=device), layer.rank_dropout, x.dtype, False)
            scale = scale / (1 - layer.rank_dropout)
        return self.computed(x, scale, tensors, rows, present)


class ToolkitForward(FlatForward):
    """ai-toolkit's LokrModule (``toolkit/models/lokr.py``), whose network has the switches and the multiplier.

    It computes in the dtype of the base. Its rank dropout keeps a row with probability p, of a Linear alone; its module
    dropout does nothing.
    """

    def awake(self) -> dict[str, Any]:
        ones = torch.full((1,), 0.7, device=next(self.layer.parameters()).device)
        network = SimpleNamespace(
            is_lorm=False, is_active=True, is_merged_in=False, _multiplier=0.7, torch_multiplier=ones
        )
        return {"network_ref": lambda: network}

    def fast(self, x: Tensor, args: tuple, kwargs: dict) -> Tensor | None:
        layer, network = self.layer, self.layer.network_ref()
        strength = mean(network._multiplier)
        if network.is_lorm or not network.is_active or network.is_merged_in or not strength:
            return None
        dropped, of_linear = layer.training and layer.rank_dropout, getattr(layer, "_fast_linear", False)
        plain = self.plain()
        weight = None if plain is None else plain._parameters.get("weight")
        casts = weight is None or weight.dtype != x.dtype  # the older way casts the input to the weight's dtype
        if not of_linear and (dropped or casts):
            return None
        rows = None
        if dropped:
            # Its comparison is the other way round: the drawn numbers below p stay.
            rows = (torch.rand(self.weight_shape[0], device=x.device) < layer.rank_dropout).to(x.dtype)
        return self.computed(x, layer.scale * strength, self.tensors(x.dtype), rows, True).to(x.dtype)


def mean(multiplier: Any) -> float | None:
    """The mean of ai-toolkit's multiplier, a number or numbers for each sample; None for a tensor."""
    if isinstance(multiplier, (list, tuple)) and multiplier:
        return sum(multiplier) / len(multiplier)
    return float(multiplier) if isinstance(multiplier, (int, float)) else None
