"""Adapters and checkpoint files: what of an adapter matches, and a new checkpoint with it merged in.

A checkpoint streams through: at any time one of its tensors is in memory, besides the adapter.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Mapping
from importlib import metadata as packages
from math import prod
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from .._files import DTYPES, Header, TensorInfo, is_finite, read_header, replacing
from ..adapter import Adapter, check_strength
from ..display import Progress, human_bytes
from ..errors import LoKrFileError, LoKrValueError
from ..formats import load_adapter
from ..matching import Match, Report, Target, resolve

MERGES_KEY = "lokr.merges"
"""The key of ``__metadata__`` that lists, as JSON, the adapters merged into a checkpoint, the first one first."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_WEIGHTS = frozenset(DTYPES[name] for name in ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"))
_CHUNK = 1 << 24  # bytes copied at a time
_SCALES = ("scale_weight", "weight_scale", "weight_scale_2", "absmax")  # beside a weight that is quantized with scales


def check_file(model: str | os.PathLike, adapter: Adapter | str | os.PathLike) -> Report:
    """What of ``adapter`` belongs to the checkpoint ``model``: its header is read, no tensor. Raises LoKrFileError."""
    return resolve(_adapter(adapter), _target(read_header(model)))[1]


def _target(header: Header) -> Target:
    return Target({name: info.shape for name, info in header.tensors.items()})


def apply_to_file(
    model: str | os.PathLike,
    adapter: Adapter | str | os.PathLike,
    out: str | os.PathLike,
    strength: float = 1.0,
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    overwrite_input: bool = False,
) -> Report:
    """Write the checkpoint ``model`` with ``adapter`` merged in to ``out``, and report what became of each module.

    model, out: ``.safetensors`` files; ``out`` appears whole or, after any exception, not at all
    dtype: of the floating tensors in ``out``; what each had in ``model`` where it is None
    progress: told (bytes read, bytes in all)
    overwrite_input: whether ``out`` may be ``model`` itself

    A changed weight is the very one that ``merge_adapter`` gives; with ``dtype``, it is merged in fp32 and rounded
    once. Metadata is kept, and ``MERGES_KEY`` in it notes the merge.

    Raises LoKrMatchError where no module belongs to the checkpoint, LoKrFileError for files that cannot be read or
    written, or weights quantized with scales, LoKrValueError where a merged number leaves the dtype's range.
    """
    strength, adapter, model, out = check_strength(strength), _adapter(adapter), Path(model), Path(out)
    header = read_header(model)
    _check_out(out, model, adapter, overwrite_input)
    matches, report = resolve(adapter, _target(header))
    report.raise_if_nothing_matched()
    by_weight: dict[str, list[Match]] = defaultdict(list)
    for match in matches:
        by_weight[match.weight].append(match)
    _check_weights(header, by_weight, model)
    dtypes = {n: dtype if dtype and i.dtype in _WEIGHTS else i.dtype for n, i in header.tensors.items()}
    # Wide dtypes first and otherwise the model's own order: tensors stay aligned, as safetensors itself writes them.
    order = sorted(header.tensors, key=lambda n: (-dtypes[n].itemsize, header.tensors[n].start))
    head = _encode_header(header, order, dtypes, _noted(header.metadata, adapter, strength, report))
    total = sum(info.stop - info.start for info in header.tensors.values())
    tell = progress or (lambda done, total: None)
    done = 0
    try:
        with replacing(out) as temporary, model.open("rb") as source, temporary.open("wb") as sink:
            sink.write(head)
            for name in order:
                info = header.tensors[name]
                if name in by_weight:
                    merged = _merge(source, info, name, by_weight[name], strength, dtypes[name], model)
                    sink.write(_bytes_of(merged))
                elif dtypes[name] != info.dtype:
                    sink.write(_bytes_of(_read(source, info, model).to(dtypes[name])))
                else:
                    for size in _copy(source, info, sink, model):
                        tell(done + size, total)
                done += info.stop - info.start
                tell(done, total)
    except OSError as error:
        raise LoKrFileError(f"The file cannot be written: {error.strerror or error}", file=out) from error
    return report


def _adapter(adapter: Adapter | str | os.PathLike) -> Adapter:
    return adapter if isinstance(adapter, Adapter) else load_adapter(adapter)


def _check_out(out: Path, model: Path, adapter: Adapter, overwrite_input: bool) -> None:
    """Refuse, before anything is read, an ``out`` that is an input, or that cannot be written."""
    for path, what in ((model, "model"), (adapter.path, "adapter")):
        if path is not None and out.exists() and path.exists() and out.samefile(path):
            if what == "model" and overwrite_input:
                continue
            allow = ", or allow it: overwrite_input=True, --overwrite-model" if what == "model" else ""
            hint = "give another name" + allow
            raise LoKrFileError(f"The output is the {what} itself", file=out, hint=hint)
    if out.is_dir():
        raise LoKrFileError("The output is a folder", file=out, expected="the name of a .safetensors file")
    if not out.parent.is_dir():
        raise LoKrFileError("The output's folder does not exist", file=out, hint=f"make {out.parent} first")
    needed, free = model.stat().st_size, shutil.disk_usage(out.parent).free
    if needed > free:
        raise LoKrFileError(
            "There is not enough room for the output",
            file=out,
            expected=f"{human_bytes(needed)}, as large as the model",
            found=f"{human_bytes(free)} free",
        )


def _check_weights(header: Header, by_weight: Mapping[str, list[Match]], model: Path) -> None:
    """Refuse weights whose stored numbers are not the weight: what is added to them would be scaled as well."""
    for name in by_weight:
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


def _merge(
    source: BinaryIO,
    info: TensorInfo,
    name: str,
    matches: list[Match],
    strength: float,
    dtype: torch.dtype,
    model: Path,
) -> Tensor:
    """A weight with its updates, in ``dtype``."""
    weight = _read(source, info, model)
    if dtype != info.dtype:
        weight = weight.to(torch.float64 if torch.float64 in (dtype, info.dtype) else torch.float32)
    # DoRA refers to the base, which the second of several updates would no longer find.
    base = weight.clone() if len(matches) > 1 and any(match.needs_base for match in matches) else None
    for match in matches:
        match.add_to_(weight, strength, base)
    weight = weight.to(dtype)
    if not is_finite(weight) and is_finite(_read(source, info, model)):
        raise LoKrValueError(
            f"A merged weight leaves the range of {_NAMES[dtype]}",
            file=model,
            module=name,
            found=f"strength {strength:g}",
            hint="use a lower strength, or --dtype bf16 or fp32",
        )
    return weight


def _read(source: BinaryIO, info: TensorInfo, model: Path) -> Tensor:
    # Read, not mapped: mapped pages of a large file would count as this process's memory.
    data = torch.empty(info.stop - info.start, dtype=torch.uint8)
    source.seek(info.start)
    if source.readinto(data.numpy()) != data.numel():
        raise LoKrFileError("The file was changed while it was read", file=model)
    return data.view(info.dtype).reshape(info.shape)


def _copy(source: BinaryIO, info: TensorInfo, sink: BinaryIO, model: Path):
    """A tensor's bytes from file to file; yields how many have been copied."""
    source.seek(info.start)
    left = info.stop - info.start
    while left:
        chunk = source.read(min(left, _CHUNK))
        if not chunk:
            raise LoKrFileError("The file was changed while it was read", file=model)
        sink.write(chunk)
        left -= len(chunk)
        yield info.stop - info.start - left


def _bytes_of(tensor: Tensor) -> memoryview:
    return memoryview(tensor.contiguous().flatten().view(torch.uint8).numpy())


def _encode_header(
    header: Header, order: list[str], dtypes: Mapping[str, torch.dtype], metadata: Mapping[str, str]
) -> bytes:
    """The 8 bytes of length and the JSON header, padded so that the tensors begin at a multiple of 8."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    at = 0
    for name in order:
        shape, dtype = header.tensors[name].shape, dtypes[name]
        stop = at + prod(shape) * dtype.itemsize
        entries[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [at, stop]}
        at = stop
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _noted(metadata: Mapping[str, str], adapter: Adapter, strength: float, report: Report) -> dict[str, str]:
    """``metadata`` with this merge at the end of the list of merges."""
    try:
        merges = list(json.loads(metadata.get(MERGES_KEY, "[]")))
    except (TypeError, ValueError):
        merges = []
    merges.append(
        {
            "adapter": adapter.path.name if adapter.path else "unnamed",  # no folders: they say who and where
            "strength": strength,
            "modules": len(report.applied),
            "of": len(report.entries),
            "version": version(),
        }
    )
    return {**metadata, MERGES_KEY: json.dumps(merges)}


def version() -> str:
    """This package's version, "unknown" where it was copied and not installed."""
    try:
        return packages.version("comfyui-lokr")
    except packages.PackageNotFoundError:
        return "unknown"
