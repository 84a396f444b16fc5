"""A folder of pictures with captions, each fitted to one of a few sizes of about the same area."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import LoKrFileError, LoKrValueError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_ORIENTATION = 0x0112  # of EXIF; from 5 on, the picture lies on its side
_LONGEST = 2.0  # the longest side of a bucket over the shortest
_PLAIN = 512  # pixels; from this size on, sides are multiples of 64, below of 16


@dataclass(frozen=True)
class Picture:
    """A picture of the folder.

    caption: the text file of the same name, or the default
    original: (height, width) in pixels, turned as its EXIF orientation says
    bucket: (height, width) that it is scaled to cover, and cropped to around its centre
    """

    path: Path
    caption: str
    original: tuple[int, int]
    bucket: tuple[int, int]

    @property
    def ids(self) -> list[float]:
        """SDXL's six numbers: original height and width, top and left of the crop, height and width."""
        (height, width), (tall, wide) = self.original, self.bucket
        scale = max(tall / height, wide / width)
        top, left = (round(height * scale) - tall) // 2, (round(width * scale) - wide) // 2
        return [float(number) for number in (height, width, top, left, tall, wide)]

    def pixels(self) -> Tensor:
        """(3, height, width) of its bucket in -1 … 1, on white where it is transparent.

        Raises LoKrFileError if the file is not a readable picture.
        """
        with _opened(self.path) as file:
            picture = ImageOps.exif_transpose(file).convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
            picture = ImageOps.fit(picture, self.bucket[::-1], Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1


def find_pictures(folder: str | os.PathLike, size: int, caption: str = "") -> list[Picture]:
    """The pictures of a folder in the order of their names.

    size: a bucket has about as many pixels as a square of this side
    caption: of pictures without a text file

    Raises LoKrFileError if the folder does not exist or holds no pictures, or a file is not a readable picture;
    LoKrValueError if the size is not a multiple of 16.
    """
    if size < 16 or size % 16:
        raise LoKrValueError("The size must be a multiple of 16", expected="512, 768, 1024, ...", found=size)
    folder = Path(folder)
    if not folder.is_dir():
        raise LoKrFileError("No such folder", file=folder, expected="a folder of pictures")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not files:
        raise LoKrFileError("No pictures in this folder", file=folder, expected=", ".join(SUFFIXES))
    return [_picture(path, size, caption) for path in files]


def _picture(path: Path, size: int, caption: str) -> Picture:
    text = path.with_suffix(".txt")
    with _opened(path) as file:
        width, height = file.size if file.getexif().get(_ORIENTATION, 1) <= 4 else file.size[::-1]
    words = text.read_text(encoding="utf-8").strip() if text.is_file() else caption
    return Picture(path, words, (height, width), bucket_of(height, width, size))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """``Image.open`` whose errors, also while the block reads the file, are LoKrFileErrors that name it."""
    try:
        with Image.open(path) as file:
            yield file
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        hint = "remove it from the folder"
        raise LoKrFileError(f"Not a readable picture: {error}", file=path, hint=hint) from None


def bucket_of(height: int, width: int, size: int) -> tuple[int, int]:
    """The (height, width) of at most ``size``² pixels whose aspect is nearest; no side is over twice the other.

    >>> bucket_of(600, 600, 512), bucket_of(1080, 1920, 1024), bucket_of(100, 900, 512)
    ((512, 512), (768, 1344), (384, 640))
    """
    step = 64 if size >= _PLAIN and size % 64 == 0 else 16
    sides = range(step, int(size * math.sqrt(_LONGEST)) + step, step)
    sizes = [(tall, size * size // tall // step * step) for tall in sides]
    allowed = [(tall, wide) for tall, wide in sizes if wide and max(tall, wide) <= _LONGEST * min(tall, wide)]
    return min(allowed or [(size, size)], key=lambda s: (abs(math.log(s[0] / s[1] * width / height)), -s[0] * s[1]))
