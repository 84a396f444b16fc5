"""Which tensors a layer's adapter has, and of what shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import cast

from torch import Tensor, nn

from .._layers import kernel_axes, shape_of
from ..kronecker import (
    Factor,
    Plan,
    factorization,
    linear_plan,
    reversed_factors,
)
from ..peft import LoKrConfig, is_whole

FACTORS = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
"""The names of a layer's tensors, in whichever form its factors are."""


@dataclass(frozen=True)
class AdapterShapes:
    """The factors of one layer's dW, as PEFT's ``tuners/lokr/layer.py`` and LyCORIS' ``modules/lokr.py`` lay them out.

    l, k, m, n, kernel: out = l · k, columns = m · n; W1 (l, m), W2 (k, n, *kernel)
    r1, r2: the factors' ranks, None if whole; tucker: whether W2 is in Tucker form
    swapped: whether dW is W2 ⊗ W1, PEFT's product for a Conv1d with a whole W2
    tucker_tail: whether the core of W2 has a last axis of 1, as PEFT's of a Conv1d
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
        """For a Linear or a convolution, with rank ``r``.

        >>> AdapterShapes.of(nn.Linear(6, 4), LoKrConfig(), 1).tensors
        {'lokr_w1': (2, 2), 'lokr_w2_a': (2, 1), 'lokr_w2_b': (1, 3)}
        """
        out, columns, *kernel = cast("tuple[int, ...]", shape_of(layer))
        l, k = factorization(out, config.decompose_factor, config.order)
        m, n = factorization(columns, config.decompose_factor, config.order)
        if config.unbalanced:
            l, k = k, l
        whole1 = config.full_matrix or not config.decompose_both or is_whole(r, (l, m))
        whole2 = config.full_matrix or is_whole(r, (k, n))
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
        """W1 (l, m) and W2 (k, n, *kernel) of the tensors by name; views, so gradients reach the tensors."""
        w1, w2 = Factor.from_tensors(tensors, "lokr_w1"), Factor.from_tensors(tensors, "lokr_w2")
        if w2.t is not None and self.tucker_tail:
            return w1, replace(w2, t=w2.t.squeeze(-1))
        if w2.b is not None and w2.t is None and self.kernel:
            return w1, replace(w2, b=w2.b.unflatten(1, (self.n, *self.kernel)))
        return w1, w2

    def product(self, tensors: Mapping[str, Tensor]) -> tuple[Factor, Factor]:
        """Factors of dW as the usual product W1 ⊗ W2, which the engines and formats of this library have."""
        w1, w2 = self.factors(tensors)
        return reversed_factors(w1, w2) if self.swapped else (w1, w2)


@lru_cache(maxsize=4096)
def planned_linear(shapes: AdapterShapes) -> tuple[Plan, list[str]]:
    """The plan of a Linear's adapter of these shapes, and the kinds of its parameters in the plan's order."""
    tensors = shapes.tensors
    chains = [[kind] if kind in tensors else [f"{kind}_b", f"{kind}_a"] for kind in ("lokr_w1", "lokr_w2")]
    first, second = ([tensors[kind] for kind in chain] for chain in chains)
    plan = linear_plan(first, second)
    return plan, plan.interleave(*chains)
