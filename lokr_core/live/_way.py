"""Which way a layer's update goes: as factors that multiply the layer's input, or through the updated weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import inf, prod
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from .._layers import convolution, kernel_axes, shape_of
from ..kronecker import CPU, GPU, chain_work, planned, short_run
from ._update import LayerUpdate

FACTORED, THROUGH = "factored", "through the weight"

# Kinds of input whose ways a layer remembers.
MOST = 64


class LayerPlan(NamedTuple):
    """How a layer's updates went into its last forward.

    layer: the module's name; way: ``FACTORED`` or ``THROUGH``
    factored, through: what each way was estimated to take, in seconds; through: inf if the layer cannot go that way
    """

    layer: str
    way: str
    factored: float
    through: float


class Estimate(NamedTuple):
    """The seconds that a layer's updates are estimated to take, each way."""

    factored: float
    through: float

    @property
    def way(self) -> str:
        return _forced or (THROUGH if self.through < self.factored else FACTORED)


class Ways:
    """The ways of one layer's calls, by what its inputs are like. A copy begins anew."""

    def __init__(self) -> None:
        self._known: dict[tuple, Estimate] = {}
        self.last: Estimate | None = None

    def of(self, module: nn.Module, x: Tensor, parts: tuple[LayerUpdate, ...]) -> tuple[tuple, Estimate]:
        """(the key of calls like this one, their estimate)"""
        weight = module._parameters.get("weight")
        key = (x.shape, x.dtype, x.device, type(weight), None if weight is None else weight.dtype, parts)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= MOST:
                self._known.clear()
            found = self._known[key] = estimate(parts, module, x)
        self.last = found
        return key, found

    def unseen(self, key: tuple) -> None:
        """No operation asked for the weight in such a call: they are factored from now on."""
        if key in self._known:
            self.last = self._known[key] = self._known[key]._replace(through=inf)

    def forget(self) -> None:
        self._known.clear()

    def __deepcopy__(self, memo: dict) -> Ways:
        return Ways()

    def __reduce__(self) -> tuple:
        return Ways, ()


def estimate(parts: Sequence[LayerUpdate], module: nn.Module, x: Tensor) -> Estimate:
    """What the parts cost for the input ``x``: (..., in) or (batch, in, *size)."""
    conv, axes, size = convolution(module)[0], kernel_axes(module), x.element_size()
    rates = CPU if x.is_cpu else GPU
    positions, numbers = _positions(module, x, axes), prod(shape_of(module) or ())
    factored, through = 0.0, 2 * numbers * size * rates.weight_byte
    for index, part in enumerate(parts):
        for w1, w2 in part.factors(x.device, x.dtype):
            plan, _ = planned(w1.matrices, w2.matrices, conv)
            multiplications, moved = chain_work(plan, [m.shape for m in w1.matrices], [m.shape for m in w2.matrices])
            each = multiplications * rates.multiplication + moved * size * rates.byte
            factored += positions * max(1, plan.groups) * each + (rates.convolution if axes else rates.linear)
            through += rates.through
            here = prod(w1.shape) * prod(w2.shape) * size  # bytes of the weight that the update is for
            if index:
                through += 2 * here * rates.weight_byte
            if w2.rank is not None:
                through += prod(w2.shape) * w2.rank * rates.multiplication
            if part.has_dora:  # a second pass over what is in the cache by then, and one over the output
                through += here * rates.weight_byte
                factored += 3 * positions * w1.shape[0] * w2.shape[0] * size * rates.byte + 2 * rates.linear
            if x.is_cpu and short_run(w2.shape, size):
                through = inf
    return Estimate(factored, through)


def _positions(module: nn.Module, x: Tensor, axes: int) -> float:
    """Output positions: of all samples, and of a convolution about its input's without those its stride drops."""
    if not axes:
        return x.numel() / max(1, x.shape[-1])
    batch = x.shape[0] if x.ndim == axes + 2 else 1
    return batch * prod(x.shape[-axes:]) / prod(cast(Any, module).stride)


_forced: str | None = None


@contextmanager
def forced(way: str | None) -> Iterator[None]:
    """All layers go this way, on all threads: for tests and benchmarks."""
    global _forced
    before, _forced = _forced, way
    try:
        yield
    finally:
        _forced = before
