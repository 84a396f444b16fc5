"""A ``HeatMap`` as a picture, with nothing but numpy."""

from __future__ import annotations

import numpy as np

from ..display import GLYPH_HEIGHT, draw_text, text_width
from ._energy import HeatMap

# Dark to light, and readable by the colour-blind: nothing, little, much.
_COLORS = np.array([(38, 38, 64), (62, 74, 137), (38, 130, 142), (53, 183, 121), (253, 231, 37)], float)
_EMPTY, _BACKGROUND, _TEXT = (30, 30, 30), (24, 24, 24), (230, 230, 230)
_SCALE = 2  # of letters
_PAD = 8
_ROW = GLYPH_HEIGHT * _SCALE + 2 * _PAD


def draw_heat_map(heat: HeatMap, title: str = "") -> np.ndarray:
    """(height, width, 3) uint8: a row per block, a column per kind of layer, the value in each cell.

    A cell's colour is its share of the largest value. Letters are those of ``png.draw_text``.
    """
    label = max([text_width(row, _SCALE) for row in heat.rows], default=0) + 2 * _PAD
    widths = [max(text_width(name, _SCALE), text_width("0.0000", _SCALE)) + 2 * _PAD for name in heat.columns]
    said = f"{title}  {'ΔW/W' if heat.relative else 'ΔW'}".strip()
    width = max(label + sum(widths), text_width(said, _SCALE) + 2 * _PAD)
    image = np.full((_ROW * (len(heat.rows) + 2), width, 3), _BACKGROUND, np.uint8)
    draw_text(image, said, _PAD, _PAD, _TEXT, _SCALE)
    lefts = [label + sum(widths[:number]) for number in range(len(widths))]
    for left, name in zip(lefts, heat.columns, strict=True):
        draw_text(image, name, _ROW + _PAD, left + _PAD, _TEXT, _SCALE)
    largest = max((value for row in heat.values for value in row if value is not None), default=0.0)
    for number, (row, values) in enumerate(zip(heat.rows, heat.values, strict=True), 2):
        top = number * _ROW
        draw_text(image, row, top + _PAD, _PAD, _TEXT, _SCALE)
        for left, wide, value in zip(lefts, widths, values, strict=True):
            cell = image[top + 1 : top + _ROW - 1, left + 1 : left + wide - 1]
            cell[:] = _EMPTY if value is None else _color(value / largest if largest else 0.0)
            if value is not None:
                light = cell[0, 0].astype(int).sum() > 380
                draw_text(image, _number(value), top + _PAD, left + _PAD, (0, 0, 0) if light else _TEXT, _SCALE)
    return image


def _color(share: float) -> np.ndarray:
    """The colour of a share from 0 to 1."""
    place = min(max(share, 0.0), 1.0) * (len(_COLORS) - 1)
    low = min(int(place), len(_COLORS) - 2)
    return (_COLORS[low] + (place - low) * (_COLORS[low + 1] - _COLORS[low])).astype(np.uint8)


def _number(value: float) -> str:
    """Three digits, in at most six letters for all that fits them."""
    return f"{value:.3g}" if value == 0 or 1e-3 <= value < 1e5 else f"{value:.0e}"
