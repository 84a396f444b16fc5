"""safetensors files: read only after the header is checked, and written atomically.

Format: 8 bytes little-endian length, a JSON header of that length, then the tensors' bytes without gaps
(https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import LoKrFileError, blame

_MAX_HEADER = 100_000_000  # bytes; the limit of the reference implementation
_DOWNLOAD = "download the file again"

# Newer than torch 2.1; adapters have none of these, but checkpoints may.
_NEWER = {"C64": "complex64", "U16": "uint16", "U32": "uint32", "U64": "uint64", "F8_E8M0": "float8_e8m0fnu"}

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    **{name: getattr(torch, dtype) for name, dtype in _NEWER.items() if hasattr(torch, dtype)},
}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's entry in the header; ``start`` and ``stop`` are offsets in the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """A checked header: name -> tensor's entry, and ``__metadata__``."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


def read_header(path: str | os.PathLike, most: int = _MAX_HEADER) -> Header:
    """The checked header of a safetensors file; no tensor is read.

    most: limit of the header's size in bytes

    Raises LoKrFileError if the file is missing, empty, a pickle, not safetensors, or truncated, or if a tensor's bytes
    do not fit its shape and dtype, overlap another's, or leave a gap.
    """
    path = Path(path)
    with blame(file=path):
        head, text, size = _read_start(path, most)
        _check_kind(head, text, size)
    with blame(file=path, hint=_DOWNLOAD):
        length = int.from_bytes(head, "little")
        if len(text) < length:
            raise LoKrFileError(
                "The header is longer than the file: truncated, or not a safetensors file",
                expected=f"a header of {length:,} bytes",
                found=f"a file of {size:,} bytes (and no header may be longer than {most:,})",
            )
        return _parse(text, 8 + length, size)


def _read_start(path: Path, most: int) -> tuple[bytes, bytes, int]:
    """The header's 8 bytes of length, the header (its first 8 bytes if it cannot be that long), the file's size."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            length = int.from_bytes(head, "little")
            return head, file.read(length if length <= min(size - 8, most) else 8), size
    except IsADirectoryError:
        raise LoKrFileError("This is a folder, not a file", expected="a .safetensors file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        hint = "check the path, and that you may read it"
        raise LoKrFileError(f"The file cannot be read: {reason}", hint=hint) from None


def _check_kind(head: bytes, text: bytes, size: int) -> None:
    """Raise LoKrFileError if a file that begins with ``head`` and ``text`` is empty, a pickle or not safetensors."""
    if size == 0:
        raise LoKrFileError("The file is empty", hint="download or save it again")
    json_begins = text.lstrip()[:1] == b"{"
    # A header of 128 or 19280 bytes begins like a pickle or a zip; the next bytes tell them apart.
    if not json_begins and (head[:2] == b"PK" or head[:1] == b"\x80"):
        raise LoKrFileError(
            "This is a pickle (a .pt, .bin or .ckpt file), whatever its name",
            expected="a .safetensors file",
            hint="pickles can run code when opened and are refused; ask for or convert to .safetensors",
        )
    if size < 8 or not json_begins:
        raise LoKrFileError(
            "This is not a safetensors file",
            expected="8 bytes of header length, then a JSON header",
            found=(head + text)[:16],
            hint="get the .safetensors file itself: a failed download is often a web page or a git-lfs pointer",
        )


def _parse(text: bytes, begin: int, size: int) -> Header:
    """The header of a file of ``size`` bytes whose tensors begin at offset ``begin``."""
    try:
        entries = json.loads(text, object_pairs_hook=_unique)
    # ValueError: not UTF-8, not JSON, a duplicate key, thousands of digits. RecursionError: nested too deeply.
    except (ValueError, RecursionError) as error:
        raise LoKrFileError(f"The header is not JSON: {error}") from None
    metadata = entries.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        raise LoKrFileError("The header's metadata is malformed", expected="a JSON object", found=repr(metadata)[:200])
    tensors = {}
    for name, entry in entries.items():
        with blame(module=name):
            tensors[name] = _tensor_info(entry, begin)
    _check_offsets(tensors, begin, size)
    return Header(tensors, {str(key): str(value) for key, value in metadata.items()})


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object. Raises ValueError on a duplicate key: parsers differ in which of the values they take."""
    entries = dict(pairs)
    if len(entries) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"duplicate key {next(name for name in names if names.count(name) > 1)!r}")
    return entries


def _tensor_info(entry: dict, begin: int) -> TensorInfo:
    """A tensor's entry, checked by itself; its offsets count from ``begin``."""
    try:
        dtype, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        valid = all(type(n) is int and n >= 0 for n in (*shape, start, stop)) and isinstance(dtype, str)
    except (KeyError, TypeError, ValueError):
        valid = False
    if not valid:
        raise LoKrFileError(
            "The header's entry for a tensor is malformed",
            expected="dtype, shape and data_offsets, with numbers >= 0",
            found=repr(entry)[:200],
        )
    if dtype not in DTYPES:
        raise LoKrFileError("A tensor has an unknown dtype", expected=", ".join(DTYPES), found=dtype[:200])
    expected = prod(shape) * DTYPES[dtype].itemsize
    if stop - start != expected:
        raise LoKrFileError(
            "A tensor's bytes do not fit its shape and dtype",
            expected=f"{expected:,} bytes for {dtype} {shape}",
            found=f"{stop - start:,} bytes",
        )
    return TensorInfo(DTYPES[dtype], shape, begin + start, begin + stop)


def _check_offsets(tensors: Mapping[str, TensorInfo], begin: int, size: int) -> None:
    """Raise LoKrFileError unless the tensors' bytes fill the file from ``begin`` to ``size``."""
    at, last = begin, "the header"
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if info.start != at:
            problem = "Two tensors' bytes overlap" if info.start < at else "There is a gap between two tensors' bytes"
            expected = f"offset {at:,}, directly after {last}"
            raise LoKrFileError(problem, module=name, expected=expected, found=f"offset {info.start:,}")
        at, last = info.stop, name
    if at != size:
        problem = "The file is truncated" if at > size else "The file continues after its last tensor"
        raise LoKrFileError(problem, expected=f"{at:,} bytes", found=f"{size:,} bytes")


def load_tensors(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the metadata of a file.

    The tensors are copies: a mapped tensor would change, or crash the process, if a trainer rewrites the file. Raises
    LoKrFileError as ``read_header`` does, or if safetensors refuses the file.
    """
    read_header(path)
    try:
        file = safe_open(str(path), framework="pt")
    except (SafetensorError, OSError) as error:
        raise LoKrFileError(f"safetensors refuses the file: {error}", file=path, hint=_DOWNLOAD) from None
    with file:
        names = list(file.keys())  # noqa: SIM118 (not a dict)
        return {name: file.get_tensor(name).clone() for name in names}, dict(file.metadata() or {})


def json_object(text: str | None) -> dict[str, Any]:
    """The JSON object in a value of the metadata, which anyone may have written; {} if it is malformed or another type.

    >>> json_object('{"dim": 4}'), json_object("[4]"), json_object(None)
    ({'dim': 4}, {}, {})
    """
    try:
        value = json.loads(text or "")
    except (TypeError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path that is renamed to ``path`` at the end, or removed after any exception.

    If ``path`` is a link, the file that it points to is replaced.
    """
    path = Path(os.path.realpath(path))
    # In the same folder: a rename is atomic only within one file system. `touch` applies the user's umask.
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.tmp")
    temporary.touch(exist_ok=False)
    mode = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(mode)  # safetensors creates files readable only by their owner
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_tensors(
    tensors: Mapping[str, Tensor], path: str | os.PathLike, metadata: Mapping[str, str] | None = None
) -> None:
    """Write ``tensors`` and ``metadata`` to ``path`` atomically: any exception leaves the old file as it was."""
    stored, memory = {}, set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        # safetensors refuses tensors that share memory
        storage = tensor.untyped_storage().data_ptr()
        stored[name] = tensor.clone() if storage in memory else tensor
        memory.add(storage)
    with replacing(path) as temporary:
        save_file(stored, str(temporary), dict(metadata or {}))
