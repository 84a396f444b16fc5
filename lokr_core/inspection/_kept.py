"""A picture of how much of each block an approximation keeps."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from math import sqrt

import numpy as np
from PIL import Image

from ..adapter import ModuleName
from ..names import guesses
from ._energy import Energy, HeatMap, place_of
from ._heat_map import draw_heat_map

Kept = tuple[ModuleName, tuple[int, ...], float, float]
"""(name, shape of the weight, ‖ΔW‖², the share of it that is kept)"""


def kept_map(modules: Iterable[Kept]) -> HeatMap:
    """The share of ‖ΔW‖² that is kept, by block and kind of layer.

    >>> kept_map([(ModuleName("x", "double_blocks_0_img_attn_qkv"), (96, 32), 4.0, 0.25)]).values
    [[0.25]]
    """
    modules = list(modules)
    architecture = next(iter(guesses({name.path: shape for name, shape, _, _ in modules})), None)
    energies = [
        Energy(place_of(name, architecture), sqrt(squared * energy), sqrt(squared))
        for name, _, squared, energy in modules
    ]
    found = HeatMap.of(energies)
    return replace(found, values=[[v if v is None else v * v for v in row] for row in found.values])


def draw_kept(modules: Iterable[Kept], title: str = "") -> np.ndarray:
    """``kept_map`` as an image, an array (height, width, 3) of uint8."""
    return draw_heat_map(kept_map(modules), title, "energy kept")


def save_kept_picture(modules: Iterable[Kept], path: str | os.PathLike) -> None:
    """Write ``draw_kept`` as a PNG."""
    Image.fromarray(draw_kept(modules)).save(path, "PNG")
