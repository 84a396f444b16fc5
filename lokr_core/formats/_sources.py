"""The files that hold an adapter: one file, a folder, shards with or without their index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from .._files import load_tensors
from ..checkpoints import INDEX, SHARD, shards_of
from ..errors import LoKrFileError
from ..peft import CONFIG_NAME, WEIGHTS_NAME

# The file's name in a folder of its own: PEFT's, diffusers' and SimpleTuner's, ACE-Step's.
_IN_FOLDER = (WEIGHTS_NAME, "pytorch_lora_weights.safetensors", "lokr_weights.safetensors")


@dataclass(frozen=True)
class Source:
    """The files that hold one adapter.

    path: to name in an error; weight_map: the index's, tensor name -> file, empty without one
    """

    path: Path
    files: tuple[Path, ...]
    weight_map: Mapping[str, str] = field(default_factory=dict)

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """(all tensors by key, metadata). Of several files, the first that has an entry of the metadata counts."""
        tensors: dict[str, Tensor] = {}
        metadata: dict[str, str] = {}
        for file in self.files:
            found, entries = load_tensors(file)
            duplicate = next((key for key in found if key in tensors), None)
            if duplicate is not None:
                raise LoKrFileError(
                    "A tensor is in two shards",
                    file=file,
                    module=duplicate,
                    expected="each tensor once",
                    hint="the folder holds shards of different adapters; download it again",
                )
            tensors.update(found)
            metadata = {**entries, **metadata}
        missing = [key for key in self.weight_map if key not in tensors]
        if missing:
            raise LoKrFileError(
                "The index names tensors that are in none of its shards",
                file=self.path,
                module=missing[0],
                expected=f"{len(self.weight_map)} tensors",
                found=f"{len(tensors)}",
                hint="download the folder again",
            )
        return tensors, metadata

    @property
    def config(self) -> bytes | None:
        """PEFT's ``adapter_config.json`` in the same folder, None if it is missing."""
        return config_beside(self.path)


def config_beside(path: Path) -> bytes | None:
    """The ``adapter_config.json`` beside a file, None if it is missing.

    Unparsed: its errors, of reading too, matter only to a file that needs it.
    """
    config = path.parent / CONFIG_NAME
    try:
        return config.read_bytes() if config.is_file() else None
    except OSError:
        return b""


def find_source(path: Path) -> Source:
    """The files that ``path`` stands for: itself, the adapter in a folder, or all shards of an index or a shard.

    Raises LoKrFileError if a folder holds no adapter or several, or shards are missing.
    """
    if path.is_dir():
        path = _in_folder(path)
    files, weight_map = shards_of(path, "adapter", "name the .safetensors file itself, or download the folder again")
    return Source(path, tuple(files), weight_map)


def _in_folder(folder: Path) -> Path:
    """The file to read in a folder: an adapter, an index, or the first of several shards."""
    names = sorted(entry.name for entry in folder.iterdir())
    for name in (*_IN_FOLDER, *(name for name in names if name.endswith(INDEX))):
        if name in names:
            return folder / name
    files = [name for name in names if name.endswith(".safetensors")]
    shards = {match.group(1, 3): name for name in files if (match := SHARD.fullmatch(name))}
    if len(files) == 1 or (len(shards) == 1 and all(map(SHARD.fullmatch, files))):
        return folder / files[0]
    pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    raise LoKrFileError(
        "There are several adapters in this folder" if files else "There is no adapter in this folder",
        file=folder,
        expected=f"{_IN_FOLDER[0]}, or one .safetensors file",
        found=", ".join((files or pickles)[:5]) or f"{len(names)} other files",
        hint="name one of the files"
        if files
        else "pickles can run code when opened and are refused; save it with safe_serialization=True"
        if pickles
        else "check the path",
    )
