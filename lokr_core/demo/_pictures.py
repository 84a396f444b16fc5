"""A folder of pictures as tensors."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import LoKrFileError

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def load_pictures(folder: str | os.PathLike, size: int) -> tuple[Tensor, list[str]]:
    """(pictures (n, 3, size, size) in -1..1, their captions) of a folder, by name.

    Each picture is scaled and cut to its middle square. Its caption is the text file of its name, "" where there is
    none. Raises LoKrFileError for a folder without pictures, and for a file that is none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise LoKrFileError("There is no such folder", file=folder, expected="a folder of pictures")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
    if not files:
        raise LoKrFileError("There are no pictures in this folder", file=folder, expected=", ".join(ENDINGS))
    texts = [path.with_suffix(".txt") for path in files]
    captions = [text.read_text(encoding="utf-8").strip() if text.is_file() else "" for text in texts]
    return torch.stack([_square(path, size) for path in files]), captions


def _square(path: Path, size: int) -> Tensor:
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise LoKrFileError(
            "Pictures are read by Pillow, which is not installed", file=path, hint="pip install pillow"
        ) from None
    try:
        with Image.open(path) as picture:
            # As it is meant to be seen: turned as the camera was, transparent parts on white.
            picture = ImageOps.exif_transpose(picture).convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
            picture = ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise LoKrFileError(f"This is no picture: {error}", file=path, hint="take it out of the folder") from None
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1
