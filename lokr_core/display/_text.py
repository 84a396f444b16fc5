"""Lines of text on Pillow's pictures, in a font of the operating system that has their letters."""

from __future__ import annotations

import math
from contextlib import suppress
from functools import lru_cache

from PIL import ImageDraw, ImageFont

# Names that Pillow looks up in the font folders of Linux, Windows and macOS. The first typeface with all letters is
# taken: those for Latin and Greek come before those for Chinese, Japanese and Korean.
_TYPEFACES = (
    "DejaVuSans.ttf", "LiberationSans-Regular.ttf", "NotoSans-Regular.ttf", "segoeui.ttf", "arial.ttf", "Arial.ttf",
    "Helvetica.ttc", "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "DroidSansFallbackFull.ttf",
    "wqy-microhei.ttc", "wqy-zenhei.ttc", "msyh.ttc", "YuGothM.ttc", "meiryo.ttc", "malgun.ttf", "simsun.ttc",
    "Arial Unicode.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc", "AppleSDGothicNeo.ttc",
)  # fmt: skip
_UNASSIGNED = "\U0010ffff"  # drawn as the font's sign for a missing letter
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def text_width(text: str, size: int) -> int:
    """Pixels from the left edge to the right edge of ``text`` as ``draw_text`` draws it."""
    written, font = _drawable(text, size)
    left, _, right, _ = font.getbbox(written)
    return math.ceil(right - left)


def draw_text(
    canvas: ImageDraw.ImageDraw, text: str, at: tuple[float, float], size: int, color: tuple, align: float = 0
) -> None:
    """Draw ``text``, ``size`` pixels from ascender to descender, at (x, y).

    at: x as ``align`` says, y of the middle of the capitals
    align: which point of the text lies at x: 0 its left edge, 0.5 its middle, 1 its right edge

    A letter that no font has is written as its escape: 夜 as ``\\u591c``.
    """
    written, font = _drawable(text, size)
    left, _, right, _ = font.getbbox(written)
    _, top, _, bottom = font.getbbox("X")
    x, y = at[0] - left - (right - left) * align, at[1] - (top + bottom) / 2
    canvas.text((round(x), round(y)), written, fill=color, font=font)


@lru_cache(maxsize=4096)
def _drawable(text: str, size: int) -> tuple[str, _Font]:
    """``text`` with escapes for missing letters, and the first font that misses the fewest."""
    font = max(_fonts(size), key=lambda font: sum(_has(font, letter) for letter in text))
    letters = (letter if _has(font, letter) else letter.encode("unicode_escape").decode() for letter in text)
    return "".join(letters), font


@lru_cache(maxsize=16)
def _fonts(size: int) -> list[_Font]:
    """The typefaces that are installed, and Pillow's own font; before 10.1 that is a bitmap of one size, in Latin-1."""
    fonts: list[_Font] = []
    for name in _TYPEFACES:
        with suppress(OSError):
            fonts.append(ImageFont.truetype(name, size))
    try:
        return [*fonts, ImageFont.load_default(size)]
    except TypeError:
        return [*fonts, ImageFont.load_default()]


@lru_cache(maxsize=4096)
def _has(font: _Font, letter: str) -> bool:
    if not isinstance(font, ImageFont.FreeTypeFont):
        return letter.isprintable() and ord(letter) < 256
    return letter == " " or letter.isprintable() and bytes(font.getmask(letter)) != bytes(font.getmask(_UNASSIGNED))
