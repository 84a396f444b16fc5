"""The loss of every step as a picture, drawn with ``png``: what is trained needs no plotting library."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from ._png import GLYPH_HEIGHT, draw_text, text_width, write_png

_WIDTH, _HEIGHT = 640, 360  # pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 16, 36  # margins
_PAPER, _GRID, _INK = (255, 255, 255), (225, 225, 225), (60, 60, 60)
_EACH, _MEAN = (170, 195, 230), (25, 80, 170)  # each step's loss, and the running mean


def plot_losses(losses: Sequence[float], path: str | os.PathLike) -> None:
    """Write a PNG with the loss of every step and, darker, its running mean over a twentieth of the steps."""
    image = np.full((_HEIGHT, _WIDTH, 3), _PAPER, np.uint8)
    values = np.asarray(losses, float)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5
    for share in (0, 0.25, 0.5, 0.75, 1):
        row = _row(low + share * (high - low), low, high)
        image[row, _LEFT : _WIDTH - _RIGHT] = _GRID
        label = f"{low + share * (high - low):.3g}"
        draw_text(image, label, row - GLYPH_HEIGHT // 2, _LEFT - 8 - text_width(label), _INK)
    for label, column in (("1", _LEFT), (str(len(losses)), _WIDTH - _RIGHT - text_width(str(len(losses))))):
        draw_text(image, label, _HEIGHT - _BOTTOM + 8, column, _INK)
    draw_text(image, "STEP", _HEIGHT - _BOTTOM + 20, (_LEFT + _WIDTH - _RIGHT - text_width("STEP")) // 2, _INK)
    draw_text(image, "LOSS", 4, 8, _INK)
    _draw(image, values, low, high, _EACH, 1)
    _draw(image, _running_mean(values, max(1, values.size // 20)), low, high, _MEAN, 2)
    write_png(path, image)


def _row(value: float, low: float, high: float) -> int:
    return round(_TOP + (high - value) / (high - low) * (_HEIGHT - _TOP - _BOTTOM))


def _draw(image: np.ndarray, values: np.ndarray, low: float, high: float, colour: tuple, thickness: int) -> None:
    """A line through the values: each column of pixels from where the line enters it to where it leaves."""
    columns = np.linspace(0, max(values.size - 1, 0), _WIDTH - _LEFT - _RIGHT + 1)
    heights = np.interp(columns, np.arange(values.size), values) if values.size else []
    for at, (one, other) in enumerate(zip(heights[:-1], heights[1:], strict=True)):
        first, last = sorted((_row(one, low, high), _row(other, low, high)))
        image[first : last + thickness, _LEFT + at] = colour


def _running_mean(values: np.ndarray, size: int) -> np.ndarray:
    """The mean of up to ``size`` values that end at each."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, values.size + 1)
    starts = np.maximum(ends - size, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
