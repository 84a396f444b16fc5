"""The two pictures of the demo, as functions of the point: a landscape by day and by night."""

from __future__ import annotations

import torch
from torch import Tensor

GRID = 40
"""Points along each side of the pictures that are trained on."""


def points(size: int) -> Tensor:
    """The centres of size × size pixels, row by row: (size², 2) as (x, y) in -1 … 1, y pointing up."""
    line = (torch.arange(size) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(-line, line, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def day(p: Tensor) -> Tensor:
    """Colours (n, 3) at points (n, 2): a yellow sun in a blue sky over green hills."""
    return _landscape(p, sky=((0.75, 0.90, 1.0), (0.25, 0.55, 0.95)), disc=(1.0, 0.87, 0.25), bite=0.0,
                      hills=((0.45, 0.72, 0.35), (0.20, 0.52, 0.25)))  # fmt: skip


def night(p: Tensor) -> Tensor:
    """Colours (n, 3) at points (n, 2): a crescent moon in a violet sky over the same hills, dark."""
    return _landscape(p, sky=((0.42, 0.22, 0.50), (0.04, 0.05, 0.20)), disc=(0.96, 0.94, 0.82), bite=1.0,
                      hills=((0.13, 0.16, 0.30), (0.05, 0.07, 0.15)))  # fmt: skip


_Color = tuple[float, float, float]


def _landscape(
    p: Tensor, sky: tuple[_Color, _Color], disc: _Color, bite: float, hills: tuple[_Color, _Color]
) -> Tensor:
    x, y = p[:, 0], p[:, 1]
    colour = _mix(torch.tensor(sky[0]), torch.tensor(sky[1]), ((y + 0.4) / 1.4).clamp(0, 1))
    round_ = _inside(0.34 - torch.hypot(x - 0.35, y - 0.45))
    round_ = round_ * (1 - bite * _inside(0.31 - torch.hypot(x - 0.21, y - 0.53)))
    colour = _mix(colour, torch.tensor(disc), round_)
    colour = _mix(colour, torch.tensor(hills[0]), _inside(-0.25 + 0.18 * torch.sin(3.2 * x + 0.6) - y))
    return _mix(colour, torch.tensor(hills[1]), _inside(-0.60 + 0.14 * torch.sin(4.0 * x + 2.6) - y))


def _inside(distance: Tensor) -> Tensor:
    """1 inside an edge, 0 outside, smooth over about a pixel of the training picture."""
    return (distance / 0.04 + 0.5).clamp(0, 1)


def _mix(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    return a + (b - a) * share[:, None]
