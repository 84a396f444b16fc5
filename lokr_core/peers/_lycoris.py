"""LyCORIS' LokrModule (``lycoris/modules/lokr.py``)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ..kronecker import is_compiling
from ..trainable import added, random_rows, trainable_dora_ratio
from ._flat import FlatForward
from ._forward import chosen


class LycorisForward(FlatForward):
    """LyCORIS' LokrModule (``lycoris/modules/lokr.py``), by default through W + dW, or bypassing W.

    It draws on the CPU, module dropout before all else. By default rank dropout leaves rows of dW out, before DoRA, and
    the input is multiplied in its own dtype; bypassing, only its plain dropout acts, on the update.
    """

    def fast(self, x: Tensor, args: tuple, kwargs: dict) -> Tensor | None:
        layer, plain = self.layer, self.plain()
        wd, bypasses = getattr(layer, "wd", False), layer.bypass_mode
        # Bypassing, it regroups a grouped convolution's channels in another way; DoRA of fp8 reads a scaled weight.
        other = (bypasses and self.products.groups > 1) or (wd and type(layer.org_module[0]).__name__ == "Fp8Linear")
        # Up to LyCORIS 3 the default way multiplied by the base weight itself, not by calling ``org_forward``.
        needs_plain = not bypasses and (wd or not hasattr(layer, "_rebuild_forward"))
        if not isinstance(layer.multiplier, (int, float)) or other or (needs_plain and plain is None):
            return None
        present: Tensor | bool = True
        if layer.module_dropout and layer.training:
            present = chosen(~(torch.rand(1) < layer.module_dropout), layer.module_dropout)
            if present is False:
                return layer.org_forward(x, *args, **kwargs)
        if bypasses:
            return self._bypassed(x, present)
        rows = None
        if layer.training and layer.rank_dropout:
            drawn, dtype = torch.rand(self.weight_shape[0]), next(iter(self.tensors().values())).dtype
            rows = random_rows(drawn, layer.rank_dropout, dtype, layer.rank_dropout_scale).to(x.device)
        if wd and plain is not None:
            return self._decomposed(x, rows, present, plain)
        return self.computed(x, layer.scale * layer.multiplier, self._scaled(x), rows, present, args, kwargs)

    def _scaled(self, x: Tensor, dtype: bool = True) -> dict[str, Tensor]:
        """The factors in x's dtype, w1 multiplied by ``scalar``, a parameter or a constant 1."""
        held, scalar = self.tensors(x.dtype if dtype else None), self.layer.scalar
        if isinstance(scalar, nn.Parameter) or is_compiling() or not self._is_one(scalar):
            kind = "lokr_w1" if "lokr_w1" in held else "lokr_w1_a"
            held[kind] = held[kind] * scalar.to(held[kind])
        return held

    def _is_one(self, scalar: Tensor) -> bool:
        """Whether a constant is 1, looked at again once it has been written to: a look at a GPU's memory waits."""
        seen = self.__dict__.get("_seen")
        if seen is None or seen[0] is not scalar or seen[1] != scalar._version:
            seen = self.__dict__["_seen"] = (scalar, scalar._version, bool(scalar == 1))
        return seen[2]

    def _bypassed(self, x: Tensor, present: Tensor | bool) -> Tensor:
        layer = self.layer
        scale, tensors = layer.scale * layer.multiplier, self._scaled(x)
        if not (layer.training and isinstance(layer.drop, nn.Dropout) and layer.drop.p):
            return self.computed(x, scale, tensors, None, present)
        update = self.update(x, scale, tensors, None)
        dropped = layer.drop(self.products.update(x, update.w1, update.w2, scale, None))
        return layer.org_forward(x) + (dropped * present if isinstance(present, Tensor) else dropped)

    def _decomposed(self, x: Tensor, rows: Tensor | None, present: Tensor | bool, base: nn.Module) -> Tensor:
        """With DoRA: the multiplier m acts on the ratio, as m (c - 1) + 1."""
        layer, weight = self.layer, cast(Tensor, base.weight).detach()
        own, axis = self._scaled(x, dtype=False), "out" if layer.wd_on_out else "in"
        w1, w2 = self.shapes(own).factors(own)
        ratio = trainable_dora_ratio(weight, w1, w2, layer.scale, layer.dora_scale, axis=axis, kept=rows)
        if layer.multiplier != 1:
            ratio = layer.multiplier * (ratio - 1) + 1
        update = self.update(x, layer.scale, self._scaled(x), rows, present)._replace(ratio=ratio, axis=axis)
        y = layer.org_forward(x)
        return added(update, self.products, x, y, y, weight, cast("Tensor | None", base.bias), in_place=False)
