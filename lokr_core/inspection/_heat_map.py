"""A ``HeatMap`` as an image."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from ..display import draw_text, text_width
from ._energy import HeatMap

# From dark to light, readable by the colour-blind: nothing, little, much.
_COLORS = np.array([(38, 38, 64), (62, 74, 137), (38, 130, 142), (53, 183, 121), (253, 231, 37)], float)
_EMPTY, _BACKGROUND, _LIGHT, _DARK = (30, 30, 30), (24, 24, 24), (230, 230, 230), (0, 0, 0)
_SIZE, _PAD, _ROW = 18, 8, 30  # pixels: letters, around them, from row to row


def draw_heat_map(heat: HeatMap, title: str = "", quantity: str = "") -> np.ndarray:
    """An image of a row per block and a column per kind of layer, the value in each cell.

    A cell's colour is its share of the largest value. ``quantity``: what the values are, "" for ‖ΔW‖ or its share.

    Returns an array (height, width, 3) of uint8.
    """
    label = max([text_width(row, _SIZE) for row in heat.rows], default=0) + 2 * _PAD
    widths = [max(text_width(name, _SIZE), text_width("0.0000", _SIZE)) + 2 * _PAD for name in heat.columns]
    heading = f"{title}  {quantity or ('ΔW/W' if heat.relative else 'ΔW')}".strip()
    width = max(label + sum(widths), text_width(heading, _SIZE) + 2 * _PAD)
    image = Image.new("RGB", (width, _ROW * (len(heat.rows) + 2)), _BACKGROUND)
    canvas = ImageDraw.Draw(image)
    draw_text(canvas, heading, (_PAD, _ROW / 2), _SIZE, _LIGHT)
    lefts = [label + sum(widths[:number]) for number in range(len(widths))]
    for left, name in zip(lefts, heat.columns, strict=True):
        draw_text(canvas, name, (left + _PAD, 1.5 * _ROW), _SIZE, _LIGHT)
    largest = max((value for row in heat.values for value in row if value is not None), default=0.0)
    for number, (row, values) in enumerate(zip(heat.rows, heat.values, strict=True), 2):
        top, middle = number * _ROW, (number + 0.5) * _ROW
        draw_text(canvas, row, (_PAD, middle), _SIZE, _LIGHT)
        for left, wide, value in zip(lefts, widths, values, strict=True):
            color = _EMPTY if value is None else _color(value / largest if largest else 0.0)
            canvas.rectangle((left + 1, top + 1, left + wide - 2, top + _ROW - 2), color)
            if value is not None:
                ink = _DARK if sum(color) > 380 else _LIGHT
                draw_text(canvas, _number(value), (left + _PAD, middle), _SIZE, ink)
    return np.array(image)


def _color(share: float) -> tuple[int, ...]:
    """The colour of a share from 0 to 1."""
    places = np.linspace(0, 1, len(_COLORS))
    return tuple(int(np.interp(share, places, channel)) for channel in _COLORS.T)


def _number(value: float) -> str:
    """Three digits, in at most six letters between 1e-9 and 1e99."""
    return f"{value:.3g}" if value == 0 or 1e-3 <= value < 1e5 else f"{value:.0e}"
