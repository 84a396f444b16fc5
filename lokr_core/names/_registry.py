"""Every architecture there is a table for, in the order in which a target is tried: the first whose names fit."""

from __future__ import annotations

from . import _audio as audio
from . import _flux as flux
from . import _hunyuan as hunyuan
from . import _image as image
from . import _lumina as lumina
from . import _text as text
from . import _unet as unet
from . import _video as video
from ._words import Architecture

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
