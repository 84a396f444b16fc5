"""An update's tensors by key, and tensors in another dtype."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..adapter import LoKrWeights
from ..errors import LoKrValueError
from ..kronecker import Factor
from ..scaling import scaling_of


def all_cast(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The tensors but alphas in ``dtype``. Raises LoKrValueError if it cannot hold a number."""
    return {k: t if dtype is None or k.endswith(".alpha") else _cast(k, t, dtype) for k, t in tensors.items()}


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


def keyed(module: str, weights: LoKrWeights, metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """A module's tensors by key, such that a reader takes the same scaling from them."""
    alpha = float(weights.rank or 1) if weights.alpha is None else weights.alpha
    scaling, _ = scaling_of(alpha, weights.w1, weights.w2, metadata)
    if scaling != weights.scaling:
        # A reader takes alpha 0 for alpha = rank, and whole factors have a scaling that no alpha changes.
        if weights.rank is not None and weights.scaling != 0:
            alpha = weights.scaling * weights.rank
            scaling, _ = scaling_of(alpha, weights.w1, weights.w2, metadata)
        # Some trainers' metadata give another rank to divide by.
        if not math.isclose(scaling, weights.scaling, rel_tol=1e-12):
            weights = replace(weights, w1=_times(weights.w1, weights.scaling / scaling))
    tensors = {**weights.tensors, "alpha": _scalar(alpha)}
    return {f"{module}.{name}": tensor for name, tensor in tensors.items()}


def _times(factor: Factor, ratio: float) -> Factor:
    """ratio * factor, in fp32 at least: the product may overflow fp16."""
    name = "a" if factor.whole is None else "whole"
    tensor = getattr(factor, name)
    return replace(factor, **{name: tensor.to(torch.promote_types(tensor.dtype, torch.float32)) * ratio})


def _scalar(value: float) -> Tensor:
    """fp32 as in LyCORIS, fp64 if fp32 would change the number."""
    narrow = torch.tensor(value, dtype=torch.float32)
    return narrow if float(narrow) == value else torch.tensor(value, dtype=torch.float64)
