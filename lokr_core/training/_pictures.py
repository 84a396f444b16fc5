"""A folder of pictures as tensors."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import LoKrFileError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def load_pictures(folder: str | os.PathLike, size: int) -> tuple[Tensor, list[str]]:
    """The pictures of a folder in the order of their names, (n, 3, size, size) in -1 … 1, and their captions.

    Each picture is scaled and cropped to its central square. Its caption is the text file of the same name, or "".
    Raises LoKrFileError if the folder does not exist or holds no pictures, or a file is not a readable picture.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise LoKrFileError("No such folder", file=folder, expected="a folder of pictures")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not files:
        raise LoKrFileError("No pictures in this folder", file=folder, expected=", ".join(SUFFIXES))
    texts = [path.with_suffix(".txt") for path in files]
    captions = [text.read_text(encoding="utf-8").strip() if text.is_file() else "" for text in texts]
    return torch.stack([_square(path, size) for path in files]), captions


def _square(path: Path, size: int) -> Tensor:
    """(3, size, size), turned as its EXIF orientation says, on white where it is transparent."""
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file).convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
            picture = ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise LoKrFileError(f"Not a readable picture: {error}", file=path, hint="remove it from the folder") from None
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1
