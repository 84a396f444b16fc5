"""An ``Adapter`` -> a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..adapter import Adapter, LoKrWeights
from ..errors import LoKrValueError
from ..files import save_tensors
from ..kronecker import Factor
from .scaling import scaling_of

__all__ = ["save_adapter"]


def save_adapter(
    adapter: Adapter,
    path: str | os.PathLike,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write ``adapter`` as LyCORIS stores it, under its own module names; read back, it gives the same updates.

    Tensors that are no LoKr are written back under their keys. ``metadata`` is added to the adapter's own. ``dtype``
    is for all tensors but alphas; LoKrValueError where it is no floating dtype or cannot hold a number.
    The file appears whole or not at all.
    """
    metadata = {**adapter.metadata, **(metadata or {})}
    tensors = dict(adapter.other)
    for module, weights in adapter.items():
        tensors.update({f"{module}.{name}": tensor for name, tensor in _stored(weights, metadata).items()})
    if dtype is not None:
        tensors = {key: t if key.endswith(".alpha") else _cast(key, t, dtype) for key, t in tensors.items()}
    save_tensors(tensors, path, metadata)


def _cast(key: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not dtype.is_floating_point:
        raise LoKrValueError("An adapter cannot be stored in this dtype", expected="a floating dtype", found=dtype)
    if not tensor.is_floating_point():
        return tensor
    cast = tensor.to(dtype)
    if bool((cast.float().isfinite() != tensor.float().isfinite()).any()):
        raise LoKrValueError(
            f"{key.rpartition('.')[2]} holds numbers that {str(dtype).removeprefix('torch.')} cannot",
            module=key.rpartition(".")[0],
            expected=f"at most {torch.finfo(dtype).max:g}",
            found=f"{float(tensor.float().abs().max()):g}",
            hint="save in another dtype, such as bfloat16 or float32",
        )
    return cast


def _stored(weights: LoKrWeights, metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of one module by name, such that a reader takes the same scaling from them."""
    w1, w2 = weights.w1, weights.w2
    alpha = float(weights.rank or 1) if weights.alpha is None else weights.alpha
    scaling = scaling_of(alpha, w1, w2, metadata)
    if scaling != weights.scaling:
        # A reader takes alpha 0 for alpha = rank, and whole factors for a scaling of their own.
        if weights.rank is not None and weights.scaling != 0:
            alpha = weights.scaling * weights.rank
        else:
            w1 = _times(w1, weights.scaling / scaling)
    tensors = {}
    for name, factor in (("lokr_w1", w1), ("lokr_w2", w2)):
        for part, tensor in factor.tensors.items():
            tensors[{"whole": name, "t": "lokr_t2"}.get(part, f"{name}_{part}")] = tensor
    tensors["alpha"] = _scalar(alpha)
    if weights.dora_scale is not None:
        tensors["dora_scale"] = weights.dora_scale
    return tensors


def _times(factor: Factor, ratio: float) -> Factor:
    """ratio * factor, in fp32 at least, for it may leave a half's range."""
    name = "a" if factor.whole is None else "whole"
    tensor = getattr(factor, name)
    return replace(factor, **{name: tensor.to(torch.promote_types(tensor.dtype, torch.float32)) * ratio})


def _scalar(value: float) -> Tensor:
    """fp32 as LyCORIS has it, fp64 where fp32 would change the number."""
    narrow = torch.tensor(value, dtype=torch.float32)
    return narrow if float(narrow) == value else torch.tensor(value, dtype=torch.float64)
