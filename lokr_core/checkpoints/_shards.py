"""A file that is cut into several: by an index beside them, or by its numbers (model-00001-of-00003.safetensors)."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ..errors import LoKrFileError

INDEX = ".safetensors.index.json"
SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.safetensors", re.DOTALL)


def shards_of(path: Path, what: str, hint: str) -> tuple[list[Path], dict[str, str]]:
    """(the files that ``path`` stands for, the index's tensor name -> file, empty without an index)

    path: an index, a shard, or a file of its own; what: "model" or "adapter"; hint: what to do about a bad index

    Raises LoKrFileError if the index cannot be used or shards are missing.
    """
    if path.name.endswith(INDEX):
        weight_map = _weight_map(path, hint)
        return _present(path, what, [path.with_name(name) for name in sorted(set(weight_map.values()))]), weight_map
    match = SHARD.fullmatch(path.name)
    if not match or int(match[3]) < 2:
        return [path], {}
    count = int(match[3])
    files = [path.with_name(f"{match[1]}-{n:05}-of-{count:05}.safetensors") for n in range(1, count + 1)]
    return _present(path, what, files), {}


def _weight_map(index: Path, hint: str) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        names = set(weight_map.values())
        if not names or not all(Path(name).name == name and name.endswith(".safetensors") for name in names):
            raise ValueError("its shards are not files of the same folder")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LoKrFileError(
            f"The index cannot be used: {error}",
            file=index,
            expected='JSON with a "weight_map" of tensor names and .safetensors files beside it',
            hint=hint,
        ) from None
    return weight_map


def _present(path: Path, what: str, files: list[Path]) -> list[Path]:
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise LoKrFileError(
            f"The {what} is cut into several files, and not all are here",
            file=path,
            expected=f"{len(files)} files: {files[0].name} to {files[-1].name}",
            found=f"missing: {', '.join(missing[:5])}" + (f" and {len(missing) - 5} more" if len(missing) > 5 else ""),
            hint="put all of them into the same folder",
        )
    return files
