"""Tiny models of every architecture, the same size in diffusers and in ComfyUI: what to build, as data.

Each row of `TINY` is (diffusers class, its arguments), (ComfyUI's class below `comfy.ldm`, its arguments). Sizes are
chosen so that layers of different kinds differ in shape wherever an architecture lets them, which makes a wrong
mapping show as a wrong shape. One of the two is None where diffusers or ComfyUI has no such model. One module per
family, as in `lokr_core.names`.
"""

from __future__ import annotations

from typing import Any

from . import (
    audio,
    flux,
    further_image,
    further_video,
    hunyuan,
    image,
    language,
    lumina,
    pixels,
    shapes,
    unet,
    video,
    wan,
)
from .build import Row, comfyui_model, diffusers_model

TINY: dict[str, Row] = {
    **unet.TINY,
    **flux.TINY,
    **hunyuan.TINY,
    **image.TINY,
    **language.TINY,
    **lumina.TINY,
    **video.TINY,
    **wan.TINY,
    **pixels.TINY,
    **shapes.TINY,
    **audio.TINY,
    **further_image.TINY,
    **further_video.TINY,
}


def build_diffusers(arch: str, device: str = "cpu") -> Any:
    """The diffusers model of a row of `TINY`, on `device`; needs diffusers."""
    return diffusers_model(TINY[arch][0], device)


def build_comfyui(arch: str, device: str = "cpu") -> Any:
    """The ComfyUI twin of a row of `TINY`, on `device` in fp32; needs ComfyUI's folder in `sys.path`."""
    return comfyui_model(TINY[arch][1], device)
