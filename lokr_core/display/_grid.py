"""Images side by side, labelled with the strengths that made them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ..errors import LoKrValueError
from ._text import draw_text, text_width

MAX_IMAGES = 64
"""Limit of images in a grid."""

_PAPER, _INK = (255, 255, 255), (0, 0, 0)


@dataclass(frozen=True)
class Grid:
    """The labels of a grid's columns and rows, and its title. A grid of one axis has one row, labelled ""."""

    columns: tuple[str, ...]
    rows: tuple[str, ...] = ("",)
    title: str = ""

    @classmethod
    def of(cls, x: str, xs: Sequence[float], y: str = "", ys: Sequence[float] = ()) -> Grid:
        """A column per strength ``xs`` of the adapter named ``x``, a row per strength ``ys`` of the one named ``y``.

        Raises LoKrValueError if it has more than ``MAX_IMAGES`` cells.

        >>> Grid.of("style", (0, 0.5)).columns
        ('0', '0.5')
        """
        count = len(xs) * max(len(ys), 1)
        if count > MAX_IMAGES:
            raise LoKrValueError("The grid has too many images", expected=f"{MAX_IMAGES} at most", found=count)
        title = f"X = {x}" + (f"   Y = {y}" if ys else "")
        return cls(tuple(f"{x:g}" for x in xs), tuple(f"{y:g}" for y in ys) or ("",), title)

    def __len__(self) -> int:
        return len(self.columns) * len(self.rows)

    def assemble(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """One labelled image of all ``images``, given row by row.

        images: arrays (height, width, 3) of uint8, all of one size; so is what it returns.

        Raises LoKrValueError if their number is not the grid's, or their sizes differ.
        """
        if len(images) != len(self):
            raise LoKrValueError(
                "The grid needs one image for each cell",
                expected=f"{len(self.columns)} × {len(self.rows)} = {len(self)}",
                found=len(images),
                hint="connect the images that were made with this grid's models",
            )
        sizes = {image.shape for image in images}
        if len(sizes) > 1:
            raise LoKrValueError("The images differ in size", expected="one size", found=sorted(sizes))
        height, width, _ = images[0].shape
        size = max(12, width // 18)  # of the letters
        line, gap = size * 4 // 3, size // 3
        left = max(text_width(row, size) for row in self.rows)
        left += 2 * gap if left else 0
        across = max(left + width * len(self.columns), text_width(self.title, size) + 2 * gap)
        whole = Image.new("RGB", (across, 2 * line + height * len(self.rows)), _PAPER)
        canvas = ImageDraw.Draw(whole)
        draw_text(canvas, self.title, (gap, line / 2), size, _INK)
        for number, column in enumerate(self.columns):
            draw_text(canvas, column, (left + (number + 0.5) * width, 1.5 * line), size, _INK, 0.5)
        for number, row in enumerate(self.rows):
            draw_text(canvas, row, (gap, 2 * line + (number + 0.5) * height), size, _INK)
        for number, image in enumerate(images):
            down, right = divmod(number, len(self.columns))
            whole.paste(Image.fromarray(image), (left + right * width, 2 * line + down * height))
        return np.array(whole)
