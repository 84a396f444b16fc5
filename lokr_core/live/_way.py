"""Which way a layer's update goes: as factors that multiply the layer's input, or through the updated weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import inf, prod
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from .._layers import convolution, kernel_axes, shape_of
from ..kronecker import CPU, GPU, Rates, planned, short_run, update_costs
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


def estimate(parts: Sequence[LayerUpdate], module: nn.Module, x: Tensor, rates: Rates | None = None) -> Estimate:
    """What the parts cost for the input ``x``, (..., in) or (batch, in, *size), by the ``rates`` of x's device."""
    conv, size, rates = convolution(module)[0], x.element_size(), rates or (CPU if x.is_cpu else GPU)
    positions = _positions(module, x, kernel_axes(module))
    factored = through = covered = 0.0
    for part in parts:
        for w1, w2 in part.factors(x.device, x.dtype):
            plan, _ = planned(w1.matrices, w2.matrices, conv)
            ways = update_costs(plan, w1, w2, positions, size, rates, part.has_dora)
            factored, through = factored + ways[0], through + ways[1]
            covered += prod(w1.shape) * prod(w2.shape)
            if x.is_cpu and short_run(w2.shape, size):
                through = inf
    copied = max(0.0, prod(shape_of(module) or ()) - covered)  # the rows that no update is for
    return Estimate(factored, through + 2 * copied * size * rates.weight_byte)


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
