"""safetensors in and out. A file is distrusted until its header is checked; a file is written whole or not at all.

Format: 8 bytes little-endian length, a JSON header of that length, then the tensors' bytes without gaps
(https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import LoKrFileError

_MAX_HEADER = 100_000_000  # the reference implementation's own limit

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
    # Newer than torch 2.1, and of interest only where a checkpoint's other tensors are in them.
    **{
        name: getattr(torch, dtype)
        for name, dtype in (
            ("C64", "complex64"),
            ("U16", "uint16"),
            ("U32", "uint32"),
            ("U64", "uint64"),
            ("F8_E8M0", "float8_e8m0fnu"),
        )
        if hasattr(torch, dtype)
    },
}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as the header describes it; ``start`` and ``stop`` are absolute offsets in the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


def read_header(path: str | os.PathLike, most: int = _MAX_HEADER) -> Header:
    """The checked header of a safetensors file, of ``most`` bytes at most; no tensor is read.

    Raises LoKrFileError that says what is wrong: missing, empty, a pickle, not safetensors, truncated, offsets that
    overlap or leave gaps, sizes that do not fit shape and dtype.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            length = int.from_bytes(head, "little")
            whole = size >= 8 and length <= min(size - 8, most)
            text = file.read(length) if whole else file.read(8)
    except IsADirectoryError:
        raise LoKrFileError("This is a folder, not a file", file=path, expected="a .safetensors file") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
        reason = getattr(error, "strerror", None) or error
        raise LoKrFileError(
            f"The file cannot be read: {reason}", file=path, hint="check the path, and that you may read it"
        ) from None
    if size == 0:
        raise LoKrFileError("The file is empty", file=path, hint="download or save it again")
    json_begins = text.lstrip()[:1] == b"{"
    # A header of 128 or 19280 bytes begins like a pickle or a zip; what follows tells them apart.
    if not json_begins and (head[:2] == b"PK" or head[:1] == b"\x80"):
        raise LoKrFileError(
            "This is a pickle (a .pt, .bin or .ckpt file), whatever its name",
            file=path,
            expected="a .safetensors file",
            hint="pickles can run code when opened and are refused; ask for or convert to .safetensors",
        )
    if size < 8 or not json_begins:
        raise LoKrFileError(
            "This is not a safetensors file",
            file=path,
            expected="8 bytes of header length, then a JSON header",
            found=(head + text)[:16],
            hint="get the .safetensors file itself: a failed download is often a web page or a git-lfs pointer",
        )
    if not whole:
        raise LoKrFileError(
            "The header is longer than the file: truncated, or not a safetensors file",
            file=path,
            expected=f"a header of {length:,} bytes",
            found=f"a file of {size:,} bytes (and no header may be longer than {most:,})",
            hint="download the file again",
        )
    try:
        entries = json.loads(text, object_pairs_hook=_unique)
    # ValueError: not UTF-8, not JSON, a name twice, a number of thousands of digits; RecursionError: nested as deep.
    except (ValueError, RecursionError) as error:
        raise LoKrFileError(f"The header is not JSON: {error}", file=path, hint="download the file again") from None
    return _check(entries, path, 8 + length, size)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object; parsers differ in which of two values of one name they take, so there must not be two."""
    entries = dict(pairs)
    if len(entries) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands in it twice")
    return entries


def _check(entries: dict, path: Path, begin: int, size: int) -> Header:
    metadata = entries.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        raise LoKrFileError(
            "The header's metadata is malformed", file=path, expected="a JSON object", found=repr(metadata)[:200]
        )
    tensors = {}
    for name, entry in entries.items():
        try:
            dtype, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            valid = all(type(n) is int and n >= 0 for n in (*shape, start, stop)) and isinstance(dtype, str)
        except (KeyError, TypeError, ValueError):
            valid = False
        if not valid:
            raise LoKrFileError(
                "The header's entry for a tensor is malformed",
                file=path,
                module=name,
                expected="dtype, shape and data_offsets, of numbers from 0 up",
                found=repr(entry)[:200],
                hint="download the file again",
            )
        if dtype not in DTYPES:
            raise LoKrFileError(
                "A tensor has an unknown dtype", file=path, module=name, expected=", ".join(DTYPES), found=dtype[:200]
            )
        expected = prod(shape) * DTYPES[dtype].itemsize
        if stop - start != expected:
            raise LoKrFileError(
                "A tensor's bytes do not fit its shape and dtype",
                file=path,
                module=name,
                expected=f"{expected:,} bytes for {dtype} {shape}",
                found=f"{stop - start:,} bytes",
                hint="download the file again",
            )
        tensors[name] = TensorInfo(DTYPES[dtype], shape, begin + start, begin + stop)
    at, last = begin, "the header"
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if info.start != at:
            problem = "Two tensors' bytes overlap" if info.start < at else "There is a gap between two tensors' bytes"
            raise LoKrFileError(
                problem,
                file=path,
                module=name,
                expected=f"offset {at:,}, behind {last}",
                found=f"offset {info.start:,}",
                hint="download the file again",
            )
        at, last = info.stop, name
    if at != size:
        raise LoKrFileError(
            "The file is truncated" if at > size else "The file goes on behind its last tensor",
            file=path,
            expected=f"{at:,} bytes",
            found=f"{size:,} bytes",
            hint="download the file again",
        )
    return Header(tensors, {str(key): str(value) for key, value in metadata.items()})


@contextmanager
def open_tensors(path: str | os.PathLike) -> Iterator:
    """A checked file as safetensors' ``safe_open`` gives it: tensors are mapped, not read, until they are touched."""
    read_header(path)
    try:
        file = safe_open(str(path), framework="pt")
    except (SafetensorError, OSError) as error:
        raise LoKrFileError(
            f"safetensors refuses the file: {error}", file=path, hint="download the file again"
        ) from None
    with file:
        yield file


def load_tensors(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the metadata. The tensors are copies: a mapped tensor would change, or end the process, when
    a trainer writes the file anew."""
    with open_tensors(path) as file:
        names = list(file.keys())  # noqa: SIM118 (it is no dict)
        return {name: file.get_tensor(name).clone() for name in names}, dict(file.metadata() or {})


@lru_cache
def _aminmax_knows(dtype: torch.dtype) -> bool:
    """None for fp8; for fp16 on a CPU not in torch 2.1."""
    try:
        torch.aminmax(torch.zeros(1, dtype=dtype))
    except RuntimeError:
        return False
    return True


def is_finite(tensor: Tensor) -> bool:
    """Whether none of the numbers is NaN or infinite."""
    # aminmax passes NaN on, and is ten times as fast as isfinite.
    parts = tensor.flatten().split(1 << 18)
    if not _aminmax_knows(tensor.dtype):
        parts = (part.float() for part in parts)
    return all(math.isfinite(number) for part in parts if part.numel() for number in torch.aminmax(part))


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed to it at the end; removed instead after any exception.

    A link is followed: the file it points to is replaced, not the link.
    """
    path = Path(os.path.realpath(path))
    # Beside the file, since a rename is atomic within one file system only; of a mode as the user's umask has it.
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.tmp")
    temporary.touch(exist_ok=False)
    mode = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(mode)  # safetensors writes files that only their owner may read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_tensors(
    tensors: Mapping[str, Tensor], path: str | os.PathLike, metadata: Mapping[str, str] | None = None
) -> None:
    """Write ``tensors`` to ``path`` whole or not at all."""
    stored, memory = {}, set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        # safetensors refuses tensors that share memory.
        storage = tensor.untyped_storage().data_ptr()
        stored[name] = tensor.clone() if storage in memory else tensor
        memory.add(storage)
    with replacing(path) as temporary:
        save_file(stored, str(temporary), dict(metadata or {}))
