"""The files that hold an adapter: one file, a folder, shards with or without their index."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from .._files import load_tensors
from ..errors import LoKrFileError
from ..peft import CONFIG_NAME, WEIGHTS_NAME

# The file's name in a folder of its own: PEFT's, diffusers' and SimpleTuner's, ACE-Step's.
_IN_FOLDER = (WEIGHTS_NAME, "pytorch_lora_weights.safetensors", "lokr_weights.safetensors")
_INDEX = ".safetensors.index.json"
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.safetensors", re.DOTALL)


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
    if path.name.endswith(_INDEX):
        return _indexed(path)
    match = _SHARD.fullmatch(path.name)
    if match and int(match.group(3)) > 1:
        stem, count = match.group(1), int(match.group(3))
        files = [path.with_name(f"{stem}-{number:05}-of-{count:05}.safetensors") for number in range(1, count + 1)]
        return Source(path, _present(path, files))
    return Source(path, (path,))


def _in_folder(folder: Path) -> Path:
    """The file to read in a folder: an adapter, an index, or the first of several shards."""
    names = sorted(entry.name for entry in folder.iterdir())
    for name in (*_IN_FOLDER, *(name for name in names if name.endswith(_INDEX))):
        if name in names:
            return folder / name
    files = [name for name in names if name.endswith(".safetensors")]
    shards = {match.group(1, 3): name for name in files if (match := _SHARD.fullmatch(name))}
    if len(files) == 1 or (len(shards) == 1 and all(map(_SHARD.fullmatch, files))):
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


def _indexed(index: Path) -> Source:
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        names = sorted(set(weight_map.values()))
        plain = all(Path(name).name == name and name.endswith(".safetensors") for name in names)
        if not plain or not names:
            raise ValueError("its shards are not files of the same folder")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LoKrFileError(
            f"The index cannot be used: {error}",
            file=index,
            expected='JSON with a "weight_map" of tensor names and .safetensors files beside it',
            hint="name the .safetensors file itself, or download the folder again",
        ) from None
    return Source(index, _present(index, [index.with_name(name) for name in names]), weight_map)


def _present(path: Path, files: list[Path]) -> tuple[Path, ...]:
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise LoKrFileError(
            "The adapter is cut into several files, and not all are here",
            file=path,
            expected=f"{len(files)} files: {files[0].name} to {files[-1].name}",
            found=f"missing: {', '.join(missing[:5])}" + (f" and {len(missing) - 5} more" if len(missing) > 5 else ""),
            hint="put all of them into the same folder",
        )
    return tuple(files)
