"""The layers that stand beside the model and replace its layers' forwards: LyCORIS', kohya's and ai-toolkit's.

Each holds its factors as parameters of its own and calls ``org_forward``, the forward that it replaced.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from ..kronecker import own_forward
from ..trainable import FACTORS, Update, as_computed
from ._forward import FastForward


class FlatForward(FastForward):
    """What the three have in common."""

    def check(self) -> None:
        tensors = self.tensors()
        if any(tensor.is_meta for tensor in tensors.values()):
            raise ValueError("its factors are on the meta device, where its forward cannot be tried")
        self.shapes(tensors)

    def awake(self) -> dict[str, Any]:
        """Attributes with which the layer's own forward adds its update."""
        return {"multiplier": 0.7} if self.layer.multiplier == 0 else {}

    def plain(self) -> nn.Module | None:
        """The base layer if ``org_forward`` is its own forward; None if it is another function."""
        return own_forward(self.layer.__dict__.get("org_forward"))

    def tensors(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """The factors by kind, in ``dtype``; a whole W2 with its kernel's axes."""
        held = flat_tensors(self.layer, self.weight_shape)
        return held if dtype is None else {kind: tensor.to(dtype) for kind, tensor in held.items()}

    def computed(
        self,
        x: Tensor,
        scale: float,
        tensors: dict[str, Tensor],
        rows: Tensor | None,
        present: Tensor | bool,
        args: tuple = (),
        kwargs: dict | None = None,
    ) -> Tensor:
        """``org_forward``'s output plus the update, if module dropout leaves it in."""
        layer, plain = self.layer, self.plain()
        if not isinstance(present, Tensor):
            shapes = self.shapes(tensors)
            return self.plus(layer.org_forward, plain, x, tensors, shapes, scale, rows, args, kwargs)
        y = layer.org_forward(x, *args, **(kwargs or {}))
        return self.added(self.update(x, scale, tensors, rows, present), x, y, plain is not None)

    def update(
        self, x: Tensor, scale: float, tensors: dict[str, Tensor], rows: Tensor | None, present: Tensor | bool = True
    ) -> Update:
        factors = as_computed(x, *self.shapes(tensors).factors(tensors))
        return Update(*factors, scale, rows, present=present if isinstance(present, Tensor) else None)


def flat_tensors(layer: nn.Module, weight: tuple[int, ...]) -> dict[str, Tensor]:
    """The factors that ``layer`` holds, by kind; a whole W2 with the axes of the kernel of ``weight``."""
    held = {kind: tensor for kind in FACTORS if (tensor := layer._parameters.get(kind)) is not None}
    whole = held.get("lokr_w2")
    if whole is not None and whole.ndim == 2 and len(weight) > 2:
        held["lokr_w2"] = cast(nn.Parameter, whole.unflatten(1, (-1, *weight[2:])))
    return cast("dict[str, Tensor]", held)
