"""Random updates of a weight in the forms that the benchmarks compare, and models that share their weights."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lokr_core import Adapter, Factor, LoKrWeights, factorization

__all__ = [
    "BALANCED",
    "DORA_IN",
    "DORA_OUT",
    "FORMS",
    "KINDS",
    "RANK16",
    "WHOLE",
    "Form",
    "adapter_for",
    "twin",
    "update_of",
]

KINDS = ("attentions", "resnets", "downsamplers", "upsamplers")  # the modules that LyCORIS' preset "full" trains


class Form(NamedTuple):
    """factor: as LyCORIS splits the sizes; rank: of w2, None if it is whole; dora: DoRA's axis, None without"""

    name: str
    factor: int = 8
    rank: int | None = None
    dora: str | None = None


WHOLE, BALANCED, RANK16 = Form("whole, factor 8"), Form("whole, balanced", -1), Form("rank 16", rank=16)
DORA_OUT, DORA_IN = Form("whole, factor 8, DoRA out", dora="out"), Form("whole, factor 8, DoRA in", dora="in")
FORMS = (WHOLE, BALANCED, RANK16, DORA_OUT, DORA_IN)


@torch.no_grad()
def update_of(weight: Tensor, form: Form) -> LoKrWeights:
    """A random update of a tenth of the size of ``weight`` (out, in, *kernel), on its device in its dtype."""
    out, columns, *kernel = weight.shape
    (l, k), (m, n) = (factorization(size, form.factor, "lycoris") for size in (out, columns))

    def random(*shape: int, size: float = 1.0) -> Tensor:
        return torch.randn(shape, dtype=weight.dtype, device=weight.device) * size

    size = 0.1 * float(weight.float().std())
    if form.rank is None:
        w2 = Factor(random(k, n, *kernel, size=size))
    else:
        w2 = Factor(a=random(k, form.rank, size=size / form.rank**0.5), b=random(form.rank, n, *kernel))
    weights = LoKrWeights(Factor(random(l, m)), w2)
    return weights if form.dora is None else replace(weights, dora_scale=_magnitude(weight, form.dora))


def _magnitude(weight: Tensor, axis: str) -> Tensor:
    """The norms of the weight's rows as (out, 1, ...) or of its columns as (1, in, ...), each up to 10 % larger."""
    kept = 0 if axis == "out" else 1
    norm = weight.float().square().sum([dim for dim in range(weight.ndim) if dim != kept], keepdim=True).sqrt()
    return norm * (1 + 0.1 * torch.rand_like(norm))


def adapter_for(model: nn.Module, form: Form, kinds: tuple[str, ...] = ()) -> Adapter:
    """An update for each Linear and 2d convolution of ``model``, of those whose names have one of ``kinds``."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))}
    named = {name: module for name, module in layers.items() if not kinds or any(kind in name for kind in kinds)}
    return Adapter({name: update_of(module.weight, form) for name, module in named.items()})


def twin(model: nn.Module) -> nn.Module:
    """A model of its own modules on the same weights."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)
