"""Pictures side by side, with the strengths they were made at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import LoKrValueError
from ..strengths import MOST
from ._png import GLYPH_HEIGHT, draw_text, text_width


@dataclass(frozen=True)
class Grid:
    """What a picture's place says: labels of the columns, and of the rows where there is a second axis.

    Pictures come row by row.
    """

    columns: tuple[str, ...]
    rows: tuple[str, ...] = ("",)
    title: str = ""

    @classmethod
    def of(cls, x: str, xs: Sequence[float], y: str = "", ys: Sequence[float] = ()) -> Grid:
        """The grid of strengths ``xs`` of an adapter called ``x``, and ``ys`` of one called ``y`` below each other.

        Raises LoKrValueError where it has more than ``MOST`` pictures.
        """
        count = len(xs) * max(len(ys), 1)
        if count > MOST:
            raise LoKrValueError("The grid has too many pictures", expected=f"{MOST} at most", found=count)
        title = f"X = {x}" + (f"   Y = {y}" if ys else "")
        return cls(tuple(f"{x:g}" for x in xs), tuple(f"{y:g}" for y in ys) or ("",), title)

    def __len__(self) -> int:
        return len(self.columns) * len(self.rows)

    def assemble(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """One picture (height, width, 3) uint8 of ``pictures``, each of that kind and all of one size, with labels.

        Raises LoKrValueError where there are not as many as the grid has places, or their sizes differ.
        """
        if len(pictures) != len(self):
            raise LoKrValueError(
                "There are not as many pictures as the grid has places",
                expected=f"{len(self.columns)} × {len(self.rows)} = {len(self)}",
                found=len(pictures),
                hint="connect the pictures that were made with this grid's models, one for each",
            )
        sizes = {picture.shape for picture in pictures}
        if len(sizes) > 1:
            raise LoKrValueError("The pictures differ in size", expected="one size", found=sorted(sizes))
        height, width, _ = pictures[0].shape
        scale = max(1, width // 160)
        line = (GLYPH_HEIGHT + 6) * scale
        left = max(text_width(row, scale) for row in self.rows)
        left += 6 * scale if left else 0
        across = max(left + width * len(self.columns), text_width(self.title, scale) + 6 * scale)
        image = np.full((2 * line + height * len(self.rows), across, 3), 255, np.uint8)
        ink = (0, 0, 0)
        draw_text(image, self.title, 3 * scale, 3 * scale, ink, scale)
        for number, column in enumerate(self.columns):
            middle = left + number * width + (width - text_width(column, scale)) // 2
            draw_text(image, column, line + 3 * scale, middle, ink, scale)
        for number, row in enumerate(self.rows):
            top = 2 * line + number * height
            draw_text(image, row, top + (height - GLYPH_HEIGHT * scale) // 2, 3 * scale, ink, scale)
            for place, picture in enumerate(pictures[number * len(self.columns) : (number + 1) * len(self.columns)]):
                image[top : top + height, left + place * width : left + (place + 1) * width] = picture
        return image
