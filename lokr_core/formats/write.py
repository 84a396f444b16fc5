"""An ``Adapter`` -> a file."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import Tensor

from ..adapter import Adapter, LoKrWeights
from ..files import save_tensors
from .scaling import scaling_of

__all__ = ["save_adapter"]


def save_adapter(
    adapter: Adapter,
    path: str | os.PathLike,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write ``adapter`` as LyCORIS stores it, under its own module names; read back, it gives the same updates.

    Tensors that are no LoKr are written back under their keys. ``metadata`` is added to the adapter's own.
    The file appears whole or not at all.
    """
    metadata = {**adapter.metadata, **(metadata or {})}
    tensors = dict(adapter.other)
    for module, weights in adapter.items():
        tensors.update({f"{module}.{name}": tensor for name, tensor in _stored(weights, metadata).items()})
    if dtype is not None:
        tensors = {key: t.to(dtype) if t.is_floating_point() and not key.endswith(".alpha") else t for key, t in tensors.items()}
    save_tensors(tensors, path, metadata)


def _stored(weights: LoKrWeights, metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of one module by name, such that a reader takes the same scaling from them."""
    w1, w2, alpha = weights.w1, weights.w2, weights.alpha
    if scaling_of(alpha, w1, w2, metadata) != weights.scaling:
        if weights.rank is not None:
            alpha = weights.scaling * weights.rank
        else:  # whole factors have no scaling of their own to a reader
            ratio = weights.scaling / scaling_of(alpha, w1, w2, metadata)
            w1 = w1.map(lambda tensor: tensor * ratio)
    tensors = {}
    for name, factor in (("lokr_w1", w1), ("lokr_w2", w2)):
        for part, tensor in factor.tensors.items():
            tensors[{"whole": name, "t": "lokr_t2"}.get(part, f"{name}_{part}")] = tensor
    tensors["alpha"] = torch.tensor(float(weights.rank or 1) if alpha is None else alpha)
    if weights.dora_scale is not None:
        tensors["dora_scale"] = weights.dora_scale
    return tensors
