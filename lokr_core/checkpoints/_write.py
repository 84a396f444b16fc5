"""Writing models larger than memory: one tensor at a time, the file or folder whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from .._files import DTYPES, replacing
from ..errors import LoKrFileError
from ._open import Checkpoint, Part, Stored
from ._shards import INDEX

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_CHUNK = 1 << 24  # bytes copied at a time

Change = Callable[[str, torch.dtype], Tensor]
"""(name in the model, dtype) -> the tensor to write."""


def write_checkpoint(
    source: Checkpoint,
    out: Path,
    dtypes: Mapping[str, torch.dtype],
    changed: Mapping[str, Change],
    metadata: Callable[[Part], Mapping[str, str]],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write ``source`` with some tensors changed to ``out``, in the layout that it has.

    out: a file, or a folder for a model of several files; it appears whole or not at all
    dtypes: name -> dtype of each tensor in ``out``; changed: name -> what makes it; all others are copied
    metadata: of each file; progress: called with (bytes read, total bytes)

    Raises LoKrFileError if a file changes while it is read or cannot be written.
    """
    total = sum(stored.info.stop - stored.info.start for stored in source.tensors.values())
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        if progress:
            progress(done, total)

    try:
        if source.folder is None:
            _write_part(source.parts[0], out, dtypes, changed, metadata, count)
            return
        with replacing_folder(out) as folder:
            for part in source.parts:
                target = folder / part.path.relative_to(source.folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                _write_part(part, target, dtypes, changed, metadata, count)
            _copy_rest(source, folder, dtypes)
    except OSError as error:
        raise LoKrFileError(f"The file cannot be written: {error.strerror or error}", file=out) from error


def _write_part(
    part: Part,
    out: Path,
    dtypes: Mapping[str, torch.dtype],
    changed: Mapping[str, Change],
    metadata: Callable[[Part], Mapping[str, str]],
    count: Callable[[int], None],
) -> None:
    tensors = part.header.tensors
    own = {name: dtypes[part.prefix + name] for name in tensors}
    # Wide dtypes first, as safetensors does, so that all are aligned.
    order = sorted(tensors, key=lambda name: (-own[name].itemsize, tensors[name].start))
    with replacing(out) as temporary, part.path.open("rb") as source, temporary.open("wb") as sink:
        sink.write(_header(order, own, {name: tensors[name].shape for name in order}, metadata(part)))
        for name in order:
            info, full = tensors[name], part.prefix + name
            if full in changed:
                sink.write(_bytes_of(changed[full](full, own[name])))
                count(info.stop - info.start)
            elif own[name] != info.dtype:
                sink.write(_bytes_of(Stored(part, name, info).read().to(own[name])))
                count(info.stop - info.start)
            else:
                for start in range(info.start, info.stop, _CHUNK):
                    chunk = _read(source, part, start, min(start + _CHUNK, info.stop))
                    sink.write(chunk)
                    count(len(chunk))


def _read(source, part: Part, start: int, stop: int) -> bytes:
    source.seek(start)
    data = source.read(stop - start)
    if len(data) != stop - start:
        raise LoKrFileError("The file was changed while it was read", file=part.path)
    return data


def _header(order: list[str], dtypes: Mapping[str, torch.dtype], shapes: Mapping, metadata: Mapping[str, str]) -> bytes:
    """The 8 bytes of length and the JSON header, padded so that the tensors begin at a multiple of 8."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    for name in order:
        stop = start + prod(shapes[name]) * dtypes[name].itemsize
        entries[name] = {"dtype": _NAMES[dtypes[name]], "shape": list(shapes[name]), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data


def _copy_rest(source: Checkpoint, folder: Path, dtypes: Mapping[str, torch.dtype]) -> None:
    """Copy all other files of the model's folder; an index gets the new total size."""
    assert source.folder is not None
    written = {part.path for part in source.parts}
    # Shards that lie in a folder with other files are copied alone: the rest is not the model's.
    own = source.path == source.folder
    for path in sorted(source.folder.rglob("*")) if own else sorted(source.folder.glob(f"*{INDEX}")):
        target = folder / path.relative_to(source.folder)
        if path in written or not path.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.name.endswith(INDEX):
            _copy_index(path, target, source, dtypes)
        else:
            shutil.copyfile(path, target)


def _copy_index(path: Path, target: Path, source: Checkpoint, dtypes: Mapping[str, torch.dtype]) -> None:
    index = json.loads(path.read_bytes())
    beside = [stored for stored in source.tensors.values() if stored.part.path.parent == path.parent]
    total = sum(prod(s.info.shape) * dtypes[s.part.prefix + s.name].itemsize for s in beside)
    if beside and isinstance(index.get("metadata"), dict):
        index["metadata"]["total_size"] = total
    target.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to ``path`` at the end, or removed after any exception. A folder that is at
    ``path`` is removed last."""
    path = Path(os.path.realpath(path))
    stem = f".{path.name[:40]}.{secrets.token_hex(4)}"
    temporary, old = path.with_name(f"{stem}.tmp"), path.with_name(f"{stem}.old")
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
