"""Which tensors a layer's adapter has, and of what shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from .._layers import kernel_axes, shape_of
from ..kronecker import Factor, factorization, kron
from ..peft import LoKrConfig

WHOLE = 1 << 20
"""A rank at which PEFT leaves both factors of any layer whole."""


@dataclass(frozen=True)
class AdapterShapes:
    """The factors of one layer's dW, as PEFT's ``tuners/lokr/layer.py`` and LyCORIS' ``modules/lokr.py`` lay them out.

    out = l * k, columns = m * n; W1 (l, m), W2 (k, n, *kernel). ``r1``, ``r2``: the factors' ranks, None for a whole
    one. ``swapped``: dW is W2 ⊗ W1, PEFT's product for a Conv1d whose W2 is whole. ``tucker_tail``: the 1 that PEFT
    puts behind the kernel of a Conv1d's Tucker core.
    """

    l: int
    k: int
    m: int
    n: int
    kernel: tuple[int, ...] = ()
    r1: int | None = None
    r2: int | None = None
    tucker: bool = False
    swapped: bool = False
    tucker_tail: bool = False

    @classmethod
    def of(cls, layer: nn.Module, config: LoKrConfig, r: int) -> AdapterShapes:
        """For a Linear or a convolution with rank ``r``."""
        out, columns, *kernel = shape_of(layer)
        l, k = factorization(out, config.decompose_factor, config.order)
        m, n = factorization(columns, config.decompose_factor, config.order)
        if config.unbalanced:
            l, k = k, l
        whole1 = config.full_matrix or not (config.decompose_both and r < max(l, m) / 2)
        whole2 = config.full_matrix or r >= max(k, n) / 2
        effective = config.use_effective_conv or (config.use_effective_conv2d and len(kernel) < 3)
        conv1d, peft = kernel_axes(layer) == 1, config.order == "peft"
        return cls(
            *(l, k, m, n, tuple(kernel)),
            r1=None if whole1 else r,
            r2=None if whole2 else r,
            tucker=not whole2 and effective and any(d != 1 for d in kernel),
            swapped=whole2 and conv1d and peft,
            tucker_tail=conv1d and peft,
        )

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter by its name."""
        shapes: dict[str, tuple[int, ...]] = {}
        if self.r1 is None:
            shapes["lokr_w1"] = (self.l, self.m)
        else:
            shapes |= {"lokr_w1_a": (self.l, self.r1), "lokr_w1_b": (self.r1, self.m)}
        r = self.r2
        if r is None:
            shapes["lokr_w2"] = (self.k, self.n, *self.kernel)
        elif self.tucker:
            shapes["lokr_t2"] = (r, r, *self.kernel, *(1,) * self.tucker_tail)
            shapes |= {"lokr_w2_a": (r, self.k), "lokr_w2_b": (r, self.n)}
        else:
            shapes |= {"lokr_w2_a": (self.k, r), "lokr_w2_b": (r, self.n * prod(self.kernel))}
        return shapes

    def factors(self, tensors: Mapping[str, Tensor]) -> tuple[Factor, Factor]:
        """W1 and W2 of the tensors by name, with W2's kernel axes; views, so that gradients reach the tensors."""
        if self.r1 is None:
            w1 = Factor(whole=tensors["lokr_w1"])
        else:
            w1 = Factor(a=tensors["lokr_w1_a"], b=tensors["lokr_w1_b"])
        if self.r2 is None:
            return w1, Factor(whole=tensors["lokr_w2"])
        a, b = tensors["lokr_w2_a"], tensors["lokr_w2_b"]
        if self.tucker:
            t = tensors["lokr_t2"]
            return w1, Factor(a=a, b=b, t=t.squeeze(-1) if self.tucker_tail else t)
        return w1, Factor(a=a, b=b.unflatten(1, (self.n, *self.kernel)) if self.kernel else b)

    def delta(self, w1: Factor, w2: Factor) -> Tensor:
        """dW / scaling, (out, columns, *kernel), built whole and differentiable."""
        first, second = w1.materialize(), w2.materialize()
        if not self.swapped:
            return kron(first, second)
        product = torch.einsum("knx,lm->klnmx", second, first)
        return product.reshape(self.k * self.l, self.n * self.m, *self.kernel)
