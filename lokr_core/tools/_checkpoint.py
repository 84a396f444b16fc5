"""Adapters and checkpoint files: which modules of an adapter match, and a new checkpoint with it merged in.

A checkpoint is streamed: only one of its tensors is in memory at a time, besides the adapter.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from .._files import DTYPES, Header, read_header, replacing
from ..adapter import Adapter, check_strength
from ..display import Progress, human_bytes
from ..errors import LoKrFileError, LoKrValueError
from ..formats import load_adapter
from ..kronecker import is_finite
from ..matching import Match, Report, Target, resolve
from ._version import version

MERGES_KEY = "lokr.merges"
"""The key of ``__metadata__`` that lists, as JSON, the adapters merged into a checkpoint, the oldest first."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_WEIGHTS = frozenset(DTYPES[name] for name in ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"))
_CHUNK = 1 << 24  # bytes copied at a time
_SCALES = ("scale_weight", "weight_scale", "weight_scale_2", "absmax")  # tensors beside a quantized weight


def check_file(model: str | os.PathLike, adapter: Adapter | str | os.PathLike) -> Report:
    """Which modules of ``adapter`` match the checkpoint ``model``, by its header alone. Raises LoKrFileError."""
    return resolve(_adapter(adapter), Target.of(read_header(model).tensors))[1]


def apply_to_file(
    model: str | os.PathLike,
    adapter: Adapter | str | os.PathLike,
    out: str | os.PathLike,
    strength: float = 1.0,
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    overwrite_input: bool = False,
) -> Report:
    """Write the checkpoint ``model`` with ``adapter`` merged in to ``out``, and report what happened to each module.

    model, out: ``.safetensors`` files; ``out`` is written atomically
    dtype: of the floating tensors in ``out``; None keeps that of each tensor
    progress: called with (bytes read, total bytes)
    overwrite_input: whether ``out`` may be ``model`` itself

    A merged weight equals that of ``merge_adapter``; with ``dtype`` it is merged in fp32 and rounded once. Metadata is
    kept, and the merge is added to its ``MERGES_KEY``.

    Raises LoKrMatchError if no module matches the checkpoint, LoKrFileError if a file cannot be read or written or a
    weight is quantized, LoKrValueError if a merged weight leaves the dtype's range.
    """
    strength, adapter, model, out = check_strength(strength), _adapter(adapter), Path(model), Path(out)
    header = read_header(model)
    _check_out(out, model, adapter, overwrite_input)
    matches, report = resolve(adapter, Target.of(header.tensors))
    report.raise_if_nothing_matched()
    updates: dict[str, list[Match]] = {}
    for match in matches:
        updates.setdefault(match.weight, []).append(match)
    _check_weights(header, updates, model)
    dtypes = {n: dtype if dtype and i.dtype in _WEIGHTS else i.dtype for n, i in header.tensors.items()}
    metadata = _with_merge(header.metadata, adapter, strength, report)
    total, done = sum(info.stop - info.start for info in header.tensors.values()), 0
    try:
        with replacing(out) as temporary, model.open("rb") as source, temporary.open("wb") as sink:
            merged = _Merged(model, source, header, updates, strength, dtypes)
            sink.write(merged.header_bytes(metadata))
            for data, size in merged.chunks():
                sink.write(data)
                done += size
                if progress:
                    progress(done, total)
    except OSError as error:
        raise LoKrFileError(f"The file cannot be written: {error.strerror or error}", file=out) from error
    return report


def _adapter(adapter: Adapter | str | os.PathLike) -> Adapter:
    return adapter if isinstance(adapter, Adapter) else load_adapter(adapter)


@dataclass(frozen=True)
class _Merged:
    """The checkpoint with its updates, made tensor by tensor while it is read."""

    path: Path
    file: BufferedReader
    header: Header
    updates: Mapping[str, list[Match]]
    strength: float
    dtypes: Mapping[str, torch.dtype]

    def order(self) -> list[str]:
        """The tensors in the order of the output: wide dtypes first, as safetensors does, so that all are aligned."""
        tensors = self.header.tensors
        return sorted(tensors, key=lambda name: (-self.dtypes[name].itemsize, tensors[name].start))

    def header_bytes(self, metadata: Mapping[str, str]) -> bytes:
        """The 8 bytes of length and the JSON header, padded so that the tensors begin at a multiple of 8."""
        entries: dict[str, object] = {"__metadata__": dict(metadata)}
        start = 0
        for name in self.order():
            shape, dtype = self.header.tensors[name].shape, self.dtypes[name]
            stop = start + prod(shape) * dtype.itemsize
            entries[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, stop]}
            start = stop
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def chunks(self) -> Iterator[tuple[bytes | memoryview, int]]:
        """(bytes to write, number of bytes read for them), for all tensors of the output."""
        for name in self.order():
            info = self.header.tensors[name]
            if name in self.updates:
                yield _bytes_of(self._weight(name)), info.stop - info.start
            elif self.dtypes[name] != info.dtype:
                yield _bytes_of(self._read(name).to(self.dtypes[name])), info.stop - info.start
            else:
                self.file.seek(info.start)
                for start in range(info.start, info.stop, _CHUNK):
                    size = min(_CHUNK, info.stop - start)
                    chunk = self.file.read(size)
                    if len(chunk) != size:
                        raise self._changed()
                    yield chunk, size

    def _weight(self, name: str) -> Tensor:
        """A weight with its updates, in the output's dtype. Raises LoKrValueError if it leaves that dtype's range."""
        weight, dtype = self._read(name), self.dtypes[name]
        if dtype != weight.dtype:
            weight = weight.to(torch.float64 if torch.float64 in (dtype, weight.dtype) else torch.float32)
        matches = self.updates[name]
        # DoRA needs the unmodified weight; keep a copy if several updates are added.
        base = weight.clone() if len(matches) > 1 and any(match.needs_base for match in matches) else None
        for match in matches:
            match.add_to_(weight, self.strength, base)
        weight = weight.to(dtype)
        if not is_finite(weight) and is_finite(self._read(name)):
            raise LoKrValueError(
                f"A merged weight leaves the range of {_NAMES[dtype]}",
                file=self.path,
                module=name,
                found=f"strength {self.strength:g}",
                hint="use a lower strength, or --dtype bf16 or fp32",
            )
        return weight

    def _read(self, name: str) -> Tensor:
        # Read, not mapped: mapped pages of a large file would count as memory of this process.
        info = self.header.tensors[name]
        data = torch.empty(info.stop - info.start, dtype=torch.uint8)
        self.file.seek(info.start)
        if self.file.readinto(data.numpy().data) != data.numel():
            raise self._changed()
        return data.view(info.dtype).reshape(info.shape)

    def _changed(self) -> LoKrFileError:
        return LoKrFileError("The file was changed while it was read", file=self.path)


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data


def _check_out(out: Path, model: Path, adapter: Adapter, overwrite_input: bool) -> None:
    """Raise LoKrFileError if ``out`` is an input or cannot be written, before any tensor is read."""
    for path, what in ((model, "model"), (adapter.path, "adapter")):
        if path is not None and out.exists() and path.exists() and out.samefile(path):
            if what == "model" and overwrite_input:
                continue
            allow = ", or allow it: overwrite_input=True, --overwrite-model" if what == "model" else ""
            raise LoKrFileError(f"The output is the {what} itself", file=out, hint=f"choose another name{allow}")
    if out.is_dir():
        raise LoKrFileError("The output is a folder", file=out, expected="the name of a .safetensors file")
    if not out.parent.is_dir():
        raise LoKrFileError("The output's folder does not exist", file=out, hint=f"create {out.parent} first")
    needed, free = model.stat().st_size, shutil.disk_usage(out.parent).free
    if needed > free:
        raise LoKrFileError(
            "Not enough disk space for the output",
            file=out,
            expected=f"{human_bytes(needed)}, as large as the model",
            found=f"{human_bytes(free)} free",
        )


def _check_weights(header: Header, names: Iterable[str], model: Path) -> None:
    """Raise LoKrFileError if a weight is quantized: its scale would apply to the update as well."""
    for name in names:
        scales = [f"{name.rpartition('.')[0]}.{scale}" for scale in _SCALES] + [f"{name}.{s}" for s in _SCALES]
        scale = next((s for s in scales if s in header.tensors), None)
        if scale or header.tensors[name].dtype not in _WEIGHTS:
            raise LoKrFileError(
                "This checkpoint's weights are quantized",
                file=model,
                module=name,
                expected="fp32, fp16, bf16 or plain fp8 weights",
                found=f"scales in {scale}" if scale else str(header.tensors[name].dtype),
                hint="merge into the fp16 or bf16 checkpoint and quantize the result",
            )


def _with_merge(metadata: Mapping[str, str], adapter: Adapter, strength: float, report: Report) -> dict[str, str]:
    """``metadata`` with this merge appended to the list at ``MERGES_KEY``."""
    try:
        merges = list(json.loads(metadata.get(MERGES_KEY, "[]")))
    except (TypeError, ValueError):
        merges = []
    merges.append(
        {
            "adapter": adapter.path.name if adapter.path else "unnamed",  # without its folders, which are private
            "strength": strength,
            "modules": len(report.applied),
            "of": len(report.entries),
            "version": version(),
        }
    )
    return {**metadata, MERGES_KEY: json.dumps(merges)}
