"""``step_share`` estimates what live costs before a model has run."""

from __future__ import annotations

import torch

from lokr_core import Adapter, Factor, LoKrWeights, Target, resolve
from lokr_core.live import IMAGE, VIDEO, step_share

CPU = torch.device("cpu")


def resolved(**shapes: tuple[int, ...]) -> tuple[list, Target]:
    """Updates of factor 8 for weights of these shapes, and a model of these weights alone."""
    with torch.device("meta"):
        modules = {
            name: LoKrWeights(Factor(torch.empty(8, 8)), Factor(torch.empty(out // 8, columns // 8, *kernel)))
            for name, (out, columns, *kernel) in shapes.items()
        }
    target = Target({f"{name}.weight": shape for name, shape in shapes.items()})
    return resolve(Adapter(modules), target)[0], target


def test_many_positions_make_live_cheap():
    flux = resolved(a=(3072, 3072), b=(12288, 3072), c=(3072, 12288))
    shares = [step_share(*flux, CPU, torch.float32, positions) for positions in (64, IMAGE, VIDEO)]
    assert shares[0] > 0.05 and shares[1] < 0.02 and shares[2] < 0.002


def test_a_unets_wide_layers_see_few_positions():
    unet = resolved(a=(1280, 1280, 3, 3), b=(320, 320, 3, 3), c=(1280, 1280))
    assert step_share(*unet, CPU, torch.float32) > 0.02


def test_no_update_costs_nothing():
    assert step_share([], Target({}), CPU, torch.float32) == 0
