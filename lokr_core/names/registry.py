"""Every architecture there is a table for, in the order in which a target is tried: the first whose names fit."""

from __future__ import annotations

from . import audio, flux, hunyuan, image, lumina, text, unet, video
from .tables import Architecture

ARCHITECTURES: tuple[Architecture, ...] = (
    *unet.TABLES,
    *hunyuan.TABLES,
    *flux.TABLES,
    *image.TABLES,
    *lumina.TABLES,
    *video.TABLES,
    *audio.TABLES,
    *text.TABLES,
)
