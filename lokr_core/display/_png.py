"""PNG pictures with nothing but the standard library, and a few letters to write on them."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np

GLYPH_WIDTH, GLYPH_HEIGHT = 5, 7

# 7 rows of 5 pixels, a row in base 32: bit 4 is the leftmost pixel.
_GLYPHS = {
    "0": "EHJLPHE", "1": "4C4444E", "2": "EH1248V", "3": "V2421HE", "4": "26AIV22", "5": "VGU11HE", "6": "68GUHHE",
    "7": "V124888", "8": "EHHEHHE", "9": "EHHF12C", ".": "00000CC", "-": "000V000", "+": "044V440", "=": "00V0V00",
    "A": "EHHHVHH", "B": "UHHUHHU", "C": "EHGGGHE", "D": "SIHHHIS", "E": "VGGUGGV", "F": "VGGUGGG", "G": "EHGNHHF",
    "H": "HHHVHHH", "I": "E44444E", "J": "72222IC", "K": "HIKOKIH", "L": "GGGGGGV", "M": "HRLLHHH",
    "N": "HHPLJHH", "O": "EHHHHHE", "P": "UHHUGGG", "Q": "EHHHLID", "R": "UHHUKIH", "S": "FGGE11U", "T": "V444444",
    "U": "HHHHHHE", "V": "HHHHHA4", "W": "HHHLLLA", "X": "HHA4AHH", "Y": "HHHA444", "Z": "V1248GV", " ": "0000000",
    "/": "11248GG", "_": "000000V", ":": "0CC0CC0", "Δ": "44AAHHV",
}  # fmt: skip


def text_width(text: str, scale: int = 1) -> int:
    """Pixels that ``draw_text`` takes."""
    return max(len(text) * (GLYPH_WIDTH + 1) - 1, 0) * scale


def draw_text(image: np.ndarray, text: str, row: int, column: int, color: tuple[int, int, int], scale: int = 1) -> None:
    """Write ``text`` on ``image`` (height, width, 3) uint8, its top left at row, column.

    There are letters, digits and . - + = / : _ Δ; anything else is left blank.
    """
    for glyph in (_GLYPHS.get(letter, _GLYPHS[" "]) for letter in text.upper()):
        bits = np.array([[int(line, 32) >> (4 - x) & 1 for x in range(GLYPH_WIDTH)] for line in glyph], dtype=bool)
        bits = bits.repeat(scale, 0).repeat(scale, 1)
        part = image[row : row + bits.shape[0], column : column + bits.shape[1]]
        part[bits[: part.shape[0], : part.shape[1]]] = color
        column += (GLYPH_WIDTH + 1) * scale


def write_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write ``image``, (height, width, 3) uint8, RGB. Format: the PNG specification, colour type 2, filter 0.

    Raises ValueError for any other array, OSError where it cannot be written.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"expected an array (height, width, 3) of uint8, got {image.shape} of {image.dtype}")
    height, width, _ = image.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each row begins with its filter, 0 for none
    rows[:, 1:] = image.reshape(height, 3 * width)
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    ]
    data = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
    Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + data)
