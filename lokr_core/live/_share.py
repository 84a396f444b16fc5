"""How much of a step live takes, before a model has run: for a host that chooses between a merge and live."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import torch

from ..kronecker import CPU, GPU, planned, update_costs
from ..matching import Match, Target

IMAGE, VIDEO = 4096, 32760
"""Usual positions of a step: an image of 1024², or of 512² in a UNet; a video of 81 frames of 832 x 480."""
_WIDEST, _FEWEST = 320, 64  # a UNet's channels at full size, and the positions at its smallest


def step_share(
    matches: Iterable[Match], target: Target, device: torch.device, dtype: torch.dtype, positions: int = IMAGE
) -> float:
    """What live is estimated to add to a step, as a share of what the changed layers take themselves.

    matches: the updates, as ``resolve`` gives them for ``target``
    positions: what the model usually gets at full size. A model of which a twentieth of the weights are convolutions
    is taken for a UNet, whose layers see fewer the more channels they have.

    Attention and the layers that are not changed take time too, so the true share is smaller.
    """
    rates = CPU if device.type == "cpu" else GPU
    pieces = [weights for match in matches for _, weights in match.pieces if len(weights.shape) > 1]
    convolutions = sum(len(shape) > 2 and prod(shape[2:]) > 1 for shape in target.shapes.values())
    unet = convolutions > len(target.shapes) / 20
    base = added = 0.0
    for weights in pieces:
        out, columns, *kernel = weights.shape
        here = positions
        if unet:
            here = max(_FEWEST, positions * _WIDEST**2 // max(_WIDEST, min(out, columns)) ** 2)
        w1, w2 = weights.w1.without_kernel(), weights.w2
        axes = len(kernel)
        conv = {"stride": (1,) * axes, "padding": tuple(k // 2 for k in kernel), "dilation": (1,) * axes, "groups": 1}
        plan, _ = planned(w1.matrices, w2.matrices, conv if axes else None)
        added += min(update_costs(plan, w1, w2, here, dtype.itemsize, rates, weights.dora_axis is not None))
        base += here * prod(weights.shape) * rates.multiplication
    return added / base if base else 0.0
