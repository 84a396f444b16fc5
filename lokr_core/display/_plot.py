"""The losses of a training as an image."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ._text import draw_text

_WIDTH, _HEIGHT = 640, 360  # pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 24, 36  # margins
_SIZE = 12  # of letters
_PAPER, _GRID, _INK = (255, 255, 255), (225, 225, 225), (60, 60, 60)
_EACH, _MEAN = (170, 195, 230), (25, 80, 170)  # each step's loss, and the running mean


def plot_losses(losses: Sequence[float], path: str | os.PathLike) -> None:
    """Write ``draw_losses`` as a PNG."""
    Image.fromarray(draw_losses(losses)).save(path, "PNG")


def draw_losses(losses: Sequence[float]) -> np.ndarray:
    """A picture (height, width, 3) of bytes: the loss of every step and, darker, its running mean over a twentieth of
    the steps.

    >>> draw_losses([0.5, 0.3, 0.2]).shape
    (360, 640, 3)
    """
    values = np.asarray(losses, float)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5
    image = Image.new("RGB", (_WIDTH, _HEIGHT), _PAPER)
    canvas = ImageDraw.Draw(image)
    for value in np.linspace(low, high, 5):
        y = _y(value, low, high)
        canvas.line([(_LEFT, y), (_WIDTH - _RIGHT, y)], _GRID)
        draw_text(canvas, f"{value:.3g}", (_LEFT - 8, y), _SIZE, _INK, 1)
    draw_text(canvas, "1", (_LEFT, _HEIGHT - _BOTTOM + 12), _SIZE, _INK)
    draw_text(canvas, str(len(losses)), (_WIDTH - _RIGHT, _HEIGHT - _BOTTOM + 12), _SIZE, _INK, 1)
    draw_text(canvas, "step", ((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 12), _SIZE, _INK, 0.5)
    draw_text(canvas, "loss", (8, 10), _SIZE, _INK)
    for line, color, width in ((values, _EACH, 1), (_running_mean(values, max(1, values.size // 20)), _MEAN, 2)):
        if line.size == 1:
            line = line.repeat(2)
        xs = np.linspace(_LEFT, _WIDTH - _RIGHT, line.size)
        canvas.line([(x, _y(value, low, high)) for x, value in zip(xs, line, strict=True)], color, width)
    return np.array(image)


def _y(value: float, low: float, high: float) -> int:
    return round(_TOP + (high - value) / (high - low) * (_HEIGHT - _TOP - _BOTTOM))


def _running_mean(values: np.ndarray, size: int) -> np.ndarray:
    """The mean of each value and up to ``size`` - 1 before it."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, values.size + 1)
    starts = np.maximum(ends - size, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def curve_points(losses: Sequence[float], most: int = 200) -> list[tuple[int, float]]:
    """At most ``most`` points (step, mean loss of the steps since the point before), for a page that draws them.

    >>> curve_points([3.0, 1.0, 4.0, 2.0], 2)
    [(2, 2.0), (4, 3.0)]
    """
    ends = np.unique(np.linspace(0, len(losses), min(most, len(losses)) + 1).round().astype(int))
    return [(int(end), float(np.mean(losses[start:end]))) for start, end in zip(ends, ends[1:], strict=False)]
