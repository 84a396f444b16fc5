"""Lines of text on Pillow's pictures, in a font of the operating system that has their letters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

from PIL import ImageDraw, ImageFont

# Pillow searches the system's font folders for these. Latin and Greek first, then Chinese, Japanese and Korean.
_TYPEFACES = {
    "Linux": ("DejaVuSans.ttf", "LiberationSans-Regular.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc")
    + ("NotoSansCJKsc-Regular.otf", "DroidSansFallbackFull.ttf", "wqy-microhei.ttc", "wqy-zenhei.ttc"),
    "Windows": ("segoeui.ttf", "arial.ttf", "msyh.ttc", "YuGothM.ttc", "meiryo.ttc", "malgun.ttf", "simsun.ttc"),
    "macOS": ("Helvetica.ttc", "Arial.ttf", "Arial Unicode.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc")
    + ("AppleSDGothicNeo.ttc",),
}
_UNASSIGNED = "\U0010ffff"  # every font draws its sign for a missing letter
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def text_width(text: str, size: int) -> int:
    """Pixels from the left edge to the right edge of ``text`` as ``draw_text`` draws it."""
    left, _, right, _ = _box(*_drawable(text, size))
    return right - left


def draw_text(
    canvas: ImageDraw.ImageDraw,
    text: str,
    at: tuple[float, float],
    size: int,
    color: tuple[int, int, int],
    align: Literal["left", "middle", "right"] = "left",
) -> None:
    """Draw ``text``, ``size`` pixels from ascender to descender.

    at: x of the text's left edge, middle or right edge, as ``align`` says, and y of the middle of its capitals.

    A letter that no font has is written as its escape: 夜 as ``\\u591c``.
    """
    written, font = _drawable(text, size)
    left, _, right, _ = _box(written, font)
    _, top, _, bottom = _box("X", font)
    x = at[0] - {"left": 0, "middle": (right - left) / 2, "right": right - left}[align]
    canvas.text((round(x - left), round(at[1] - (top + bottom) / 2)), written, fill=color, font=font)


def _box(text: str, font: _Font) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of ``text`` when drawn at (0, 0)."""
    left, top, right, bottom = font.getbbox(text) if text else (0, 0, 0, 0)
    return math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)


@lru_cache(maxsize=4096)
def _drawable(text: str, size: int) -> tuple[str, _Font]:
    """``text`` with escapes for missing letters, and the first font that misses the fewest."""
    best, most = _default(size), -1
    for font in _fonts(size):
        known = sum(_has(font, letter) for letter in text)
        if known > most:
            best, most = font, known
        if known == len(text):
            break
    letters = (letter if _has(best, letter) else letter.encode("unicode_escape").decode() for letter in text)
    return "".join(letters), best


def _fonts(size: int) -> Iterator[_Font]:
    for names in _TYPEFACES.values():
        for name in names:
            font = _typeface(name, size)
            if font:
                yield font
    yield _default(size)


@lru_cache(maxsize=256)
def _typeface(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, size)
    except (OSError, ImportError):  # not installed; a Pillow built without FreeType
        return None


@lru_cache(maxsize=16)
def _default(size: int) -> _Font:
    """Pillow's own font; before 10.1 a bitmap of one size, in Latin-1."""
    try:
        return ImageFont.load_default(size)
    except (TypeError, ImportError):
        return ImageFont.load_default()


@lru_cache(maxsize=4096)
def _has(font: _Font, letter: str) -> bool:
    if not letter.isprintable():
        return False
    if isinstance(font, ImageFont.FreeTypeFont):
        return letter == " " or bytes(font.getmask(letter)) != bytes(font.getmask(_UNASSIGNED))
    return ord(letter) < 256  # Pillow's bitmap font
