"""A model on disk: one file, shards with their index, or a folder of a diffusers pipeline."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .._files import Header, TensorInfo, read_header
from ..errors import LoKrFileError
from ._shards import INDEX, SHARD, shards_of

# The file's name in a component's folder of a pipeline, or in a model's own.
_NAMES = ("diffusion_pytorch_model", "model")
_PIPELINE = "model_index.json"
# Components of a pipeline that adapters are for; all others are left as they are.
_COMPONENTS = re.compile(r"(unet|transformer|prior|text_encoder)(_\d)?")


@dataclass(frozen=True)
class Part:
    """One file of a model. ``prefix``: of its tensors' names in the model, a component's name and a dot, or ""."""

    path: Path
    prefix: str
    header: Header


@dataclass(frozen=True)
class Stored:
    """A tensor of a model: the file that it is in, its name there, and its entry in the file's header."""

    part: Part
    name: str
    info: TensorInfo

    @property
    def path(self) -> Path:
        """The file that it is in."""
        return self.part.path

    def beside(self, end: str) -> bool:
        """Whether the file has a tensor of this one's name and a dot and ``end``."""
        return f"{self.name}.{end}" in self.part.header.tensors

    def read(self) -> Tensor:
        """The tensor. Read, not mapped: mapped pages of a large file would count as memory of this process."""
        data = torch.empty(self.info.stop - self.info.start, dtype=torch.uint8)
        with self.part.path.open("rb") as file:
            file.seek(self.info.start)
            if file.readinto(data.numpy().data) != data.numel():
                raise LoKrFileError("The file was changed while it was read", file=self.part.path)
        return data.view(self.info.dtype).reshape(self.info.shape)


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk, of which the headers were read. ``folder``: of a model of several files, else None."""

    path: Path
    parts: tuple[Part, ...]
    folder: Path | None = None

    @classmethod
    def of(cls, path: str | os.PathLike) -> Checkpoint:
        """The model that ``path`` stands for: a file, an index, one of several shards, a folder with any of these, or a
        folder of a diffusers pipeline, the names of whose tensors begin with their component ("unet.", ...).

        Raises LoKrFileError if the files are missing, ambiguous or not safetensors.
        """
        path = Path(path)
        if path.is_dir() and (path / _PIPELINE).is_file():
            return cls(path, tuple(_pipeline(path)), path)
        files = _files_of(path)
        several = path.is_dir() or len(files) > 1
        return cls(
            path, tuple(Part(file, "", read_header(file)) for file in files), files[0].parent if several else None
        )

    @property
    def tensors(self) -> dict[str, Stored]:
        """Name in the model -> the tensor. Raises LoKrFileError if two shards have one of the same name."""
        found: dict[str, Stored] = {}
        for part in self.parts:
            for name, info in part.header.tensors.items():
                if part.prefix + name in found:
                    raise LoKrFileError(
                        "A tensor is in two shards",
                        file=part.path,
                        module=name,
                        expected="each tensor once",
                        hint="the folder holds shards of different models; download it again",
                    )
                found[part.prefix + name] = Stored(part, name, info)
        return found

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name in the model -> shape."""
        return {name: stored.info.shape for name, stored in self.tensors.items()}

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(part.path.stat().st_size for part in self.parts)


def _pipeline(folder: Path) -> Iterator[Part]:
    """The files of a pipeline's components that adapters are for."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and _COMPONENTS.fullmatch(entry.name))
    parts = [Part(f, f"{name}.", read_header(f)) for name in names for f in _files_of(folder / name)]
    if not parts:
        raise LoKrFileError(
            "There is no model in this pipeline's folder",
            file=folder,
            expected="a folder unet, transformer or text_encoder with .safetensors files",
            found=", ".join(sorted(entry.name for entry in folder.iterdir())[:8]),
        )
    yield from parts


def _files_of(path: Path) -> list[Path]:
    """The files that ``path`` stands for: itself, all shards of an index or a shard, or those in a folder."""
    if path.is_dir():
        path = _in_folder(path)
    return shards_of(path, "model", "download the folder again")[0]


def _in_folder(folder: Path) -> Path:
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    for stem in _NAMES:
        for name in (stem + INDEX, f"{stem}.safetensors"):
            if name in names:
                return folder / name
    indexes = [name for name in names if name.endswith(INDEX)]
    files = [name for name in names if name.endswith(".safetensors")]
    found = indexes if len(indexes) == 1 else files
    if len(found) == 1 or (files and len({m[1] for m in map(SHARD.fullmatch, files) if m}) == 1 and not indexes):
        return folder / found[0]
    raise LoKrFileError(
        "There are several models in this folder" if files else "There is no model in this folder",
        file=folder,
        expected=f"{_NAMES[0]}.safetensors, its shards with their index, or one .safetensors file",
        found=", ".join((files or names)[:5]) or "nothing",
        hint="name one of the files" if files else "check the path; pickles (.bin, .ckpt, .pt) are refused",
    )
