"""The DoRA whose result is a given weight: the norms of its rows, and the product that lies before them.

W' = V · m / ‖V‖ with V = W + W1 ⊗ W2 has the row norms m. So m is read off W', and V = diag(d) W' for unknown numbers
d; for given d the nearest product to diag(d) W' − W is known, and for a given product each d is a least squares fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ._blocks import Dense, Nearest

_ROUNDS = 100
_SETTLED = 1e-6  # relative change of the row scale in a round


@dataclass(frozen=True, eq=False)
class DoraFit:
    """A LoKr with its ``dora_scale``, and ‖result − W'‖ / ‖W' − W‖."""

    nearest: Nearest
    error: float


@torch.no_grad()
def fit_dora(base: Tensor, tuned: Tensor, nearest: Callable[[Dense], Nearest]) -> DoraFit:
    """The LoKr with DoRA on the output axis that turns ``base`` into ``tuned``, as near as alternating finds.

    base, tuned: (out, in, *kernel); nearest: finds the product nearest to a difference

    >>> from lokr_core.conversion import nearest_product
    >>> base, w1, w2 = torch.randn(8, 12), torch.randn(2, 3), torch.randn(4, 4)
    >>> v = base + 0.1 * torch.kron(w1, w2)
    >>> tuned = v / v.norm(dim=1, keepdim=True) * torch.linspace(1, 2, 8)[:, None]
    >>> fit_dora(base, tuned, lambda blocks: nearest_product(blocks, 2, 3)).error < 1e-3
    True
    """
    wide = torch.promote_types(torch.promote_types(base.dtype, tuned.dtype), torch.float32)
    w, t = base.to(wide).flatten(1), tuned.to(wide).flatten(1)
    shape = tuple(base.shape)
    norms = t.norm(dim=1)
    squares = norms.double().square().clamp_min(torch.finfo(torch.float64).tiny)
    scale = w.norm(dim=1).double() / squares.sqrt()
    memory = _Mixing()
    found: Nearest | None = None
    for _ in range(_ROUNDS):
        found = nearest(Dense((t * scale[:, None].to(wide) - w).view(shape)))
        v = found.weights.delta(wide).flatten(1).add_(w)
        fitted = (t.double() * v.double()).sum(1) / squares
        change = float((fitted - scale).norm() / scale.norm())
        scale = memory.next(scale, fitted)
        if change < _SETTLED:
            break
    assert found is not None
    v = found.weights.delta(wide).flatten(1).add_(w)
    result = v * (norms / (v.norm(dim=1) + torch.finfo(wide).eps))[:, None]
    apart = float((t - w).norm())
    error = float((result - t).norm()) / apart if apart else 0.0
    dora_scale = norms.float().reshape(-1, *[1] * (base.ndim - 1))
    weights = replace(found.weights, dora_scale=dora_scale)
    return DoraFit(Nearest(weights, max(0.0, 1 - error**2)), error)


class _Mixing:
    """Anderson's mixing: the next point from the last few steps of a fixed point iteration, which converges slowly by
    itself where the base weight's own nearest product is large."""

    def __init__(self, depth: int = 5):
        self._depth = depth
        self._points: list[Tensor] = []
        self._steps: list[Tensor] = []

    def next(self, point: Tensor, image: Tensor) -> Tensor:
        """Where to go on from ``point``, which the iteration takes to ``image``."""
        self._points = [*self._points[-self._depth :], point]
        self._steps = [*self._steps[-self._depth :], image - point]
        if len(self._points) < 3:
            return image
        steps = torch.stack([b - a for a, b in zip(self._steps, self._steps[1:], strict=False)], 1)
        points = torch.stack([b - a for a, b in zip(self._points, self._points[1:], strict=False)], 1)
        gamma = torch.linalg.lstsq(steps, self._steps[-1][:, None], driver="gelsd").solution
        mixed = image - ((points + steps) @ gamma)[:, 0]
        usable = bool(torch.isfinite(mixed).all()) and bool((mixed > 0).all())
        return mixed if usable else image
