"""Adapters and checkpoints: which modules of an adapter match, and a new checkpoint with adapters merged in.

A checkpoint is streamed: only one of its tensors is in memory at a time, besides the adapters.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .._files import DTYPES
from ..adapter import Adapter, check_strength
from ..checkpoints import Checkpoint, Part, Stored, write_checkpoint
from ..display import Progress, human_bytes
from ..errors import LoKrFileError, LoKrValueError
from ..formats import load_adapter
from ..kronecker import is_finite
from ..matching import Match, Report, Target, resolve
from ._about import without_hashes
from ._version import version

MERGES_KEY = "lokr.merges"
"""The key of ``__metadata__`` that lists, as JSON, the adapters merged into a checkpoint, the oldest first."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_WEIGHTS = frozenset(DTYPES[name] for name in ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"))
_SCALES = ("scale_weight", "weight_scale", "weight_scale_2", "absmax")  # tensors beside a quantized weight

AnyAdapter = Adapter | str | os.PathLike


def check_file(model: str | os.PathLike, adapter: AnyAdapter, expert: str = "") -> Report:
    """Which modules of ``adapter`` match the checkpoint ``model``, a file, shards or a diffusers folder, by its headers
    alone.

    expert: "high" or "low", of an adapter for a model of two experts; "": the one that the model's name tells

    Raises LoKrFileError, and LoKrValueError for an expert that the file does not have.
    """
    return resolve(_adapter(adapter), Target(Checkpoint.of(model).shapes, source=str(model)), expert)[1]


def apply_to_file(
    model: str | os.PathLike,
    adapter: AnyAdapter,
    out: str | os.PathLike,
    strength: float = 1.0,
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    overwrite_input: bool = False,
    expert: str = "",
) -> Report:
    """``apply_all`` with one adapter. Returns the report of what happened to each of its modules."""
    return apply_all(model, [(adapter, strength)], out, dtype, progress, overwrite_input, expert).reports[0]


@dataclass
class Applied:
    """The reports of the adapters that were merged into a checkpoint, in their order."""

    reports: list[Report] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether no module of any adapter was refused."""
        return all(report.complete for report in self.reports)

    def text(self) -> str:
        """For a person."""
        if len(self.reports) == 1:
            return self.reports[0].text()
        return "\n".join(
            f"{report.adapter.path.name if report.adapter.path else 'adapter'}: {report.text()}"
            for report in self.reports
        )

    def as_dict(self) -> dict:
        """For a program: the report, or a list of them if there are several."""
        found = [report.as_dict() for report in self.reports]
        return found[0] if len(found) == 1 else {"adapters": found, "complete": self.complete}


class _Use(NamedTuple):
    """A change of one weight by one adapter."""

    match: Match
    strength: float


def apply_all(
    model: str | os.PathLike,
    adapters: Sequence[tuple[AnyAdapter, float]],
    out: str | os.PathLike,
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    overwrite_input: bool = False,
    expert: str = "",
) -> Applied:
    """Write the checkpoint ``model`` with adapters, each at its strength, merged in to ``out``.

    model: a ``.safetensors`` file, an index, one of several shards, or a folder of a model or a diffusers pipeline
    adapters: (adapter or its file, strength) pairs; DoRA refers to the weights of ``model``
    out: a file, or a folder for a model of several files, in the layout that it had; written atomically
    dtype: of the floating tensors in ``out``; None keeps that of each tensor
    progress: called with (bytes read, total bytes)
    overwrite_input: whether ``out`` may be ``model`` itself
    expert: "high" or "low", of adapters for a model of two experts; "": the one that the model's name tells

    A merged weight equals that of ``merge_adapter``; with ``dtype`` it is merged in fp32 and rounded once. Metadata is
    kept, and the merges are added to its ``MERGES_KEY``.

    Raises LoKrMatchError if no module of an adapter matches the checkpoint, LoKrFileError if a file cannot be read or
    written or a weight is quantized, LoKrValueError if a merged weight leaves the dtype's range.
    """
    terms = [(_adapter(adapter), check_strength(strength)) for adapter, strength in adapters]
    out, source = Path(out), Checkpoint.of(model)
    _check_out(out, source, [adapter for adapter, _ in terms], overwrite_input)
    tensors, target = source.tensors, Target(source.shapes, source=str(model))
    updates: dict[str, list[_Use]] = {}
    applied = Applied()
    for adapter, strength in terms:
        matches, report = resolve(adapter, target, expert)
        report.raise_if_nothing_matched()
        applied.reports.append(report)
        for match in matches:
            updates.setdefault(match.weight, []).append(_Use(match, strength))
    _check_weights(tensors, updates)
    dtypes = {n: dtype if dtype and t.info.dtype in _WEIGHTS else t.info.dtype for n, t in tensors.items()}

    def merged(name: str, to: torch.dtype) -> Tensor:
        return _merged(tensors[name], updates[name], to)

    def metadata(part: Part) -> Mapping[str, str]:
        return _with_merges(part.header.metadata, [s for _, s in terms], applied.reports)

    write_checkpoint(source, out, dtypes, dict.fromkeys(updates, merged), metadata, progress)
    return applied


def _adapter(adapter: AnyAdapter) -> Adapter:
    return adapter if isinstance(adapter, Adapter) else load_adapter(adapter)


def _merged(stored: Stored, uses: Sequence[_Use], dtype: torch.dtype) -> Tensor:
    """A weight with its updates, in ``dtype``. Raises LoKrValueError if it leaves that dtype's range."""
    weight = stored.read()
    if dtype != weight.dtype:
        weight = weight.to(torch.float64 if torch.float64 in (dtype, weight.dtype) else torch.float32)
    # DoRA needs the unmodified weight; keep a copy if several updates are added.
    base = weight.clone() if len(uses) > 1 and any(use.match.needs_base for use in uses) else None
    for match, strength in uses:
        match.add_to_(weight, strength, base)
    weight = weight.to(dtype)
    if not is_finite(weight) and is_finite(stored.read()):
        raise LoKrValueError(
            f"A merged weight leaves the range of {_NAMES[dtype]}",
            file=stored.part.path,
            module=stored.name,
            found="strength " + ", ".join(f"{use.strength:g}" for use in uses),
            hint="use a lower strength, or --dtype bf16 or fp32",
        )
    return weight


def _check_out(out: Path, source: Checkpoint, adapters: Sequence[Adapter], overwrite_input: bool) -> None:
    """Raise LoKrFileError if ``out`` is an input or cannot be written, before any tensor is read."""
    model = source.path if source.folder is None else source.folder
    inputs = [(model, "model"), *((adapter.path, "adapter") for adapter in adapters)]
    for path, what in inputs:
        if path is not None and out.exists() and path.exists() and out.samefile(path):
            if what == "model" and overwrite_input:
                continue
            allow = ", or allow it: overwrite_input=True, --overwrite-model" if what == "model" else ""
            raise LoKrFileError(f"The output is the {what} itself", file=out, hint=f"choose another name{allow}")
    if source.folder is None and out.is_dir():
        raise LoKrFileError("The output is a folder", file=out, expected="the name of a .safetensors file")
    if source.folder is not None and (out.is_file() or out.suffix == ".safetensors"):
        raise LoKrFileError(
            "The output is a file, and the model is one of several", file=out, expected="the name of a folder"
        )
    if not out.parent.is_dir():
        raise LoKrFileError("The output's folder does not exist", file=out, hint=f"create {out.parent} first")
    needed, free = source.size, shutil.disk_usage(out.parent).free
    if needed > free:
        raise LoKrFileError(
            "Not enough disk space for the output",
            file=out,
            expected=f"{human_bytes(needed)}, as large as the model",
            found=f"{human_bytes(free)} free",
        )


def _check_weights(tensors: Mapping[str, Stored], names: Iterable[str]) -> None:
    """Raise LoKrFileError if a weight is quantized: its scale would apply to the update as well."""
    for name in names:
        scales = [f"{name.rpartition('.')[0]}.{scale}" for scale in _SCALES] + [f"{name}.{s}" for s in _SCALES]
        scale = next((s for s in scales if s in tensors), None)
        stored = tensors[name]
        if scale or stored.info.dtype not in _WEIGHTS:
            raise LoKrFileError(
                "This checkpoint's weights are quantized",
                file=stored.part.path,
                module=name,
                expected="fp32, fp16, bf16 or plain fp8 weights",
                found=f"scales in {scale}" if scale else str(stored.info.dtype),
                hint="merge into the fp16 or bf16 checkpoint and quantize the result",
            )


def _with_merges(metadata: Mapping[str, str], strengths: Sequence[float], reports: Sequence[Report]) -> dict[str, str]:
    """``metadata`` with these merges appended to the list at ``MERGES_KEY``."""
    try:
        merges = list(json.loads(metadata.get(MERGES_KEY, "[]")))
    except (TypeError, ValueError):
        merges = []
    for report, strength in zip(reports, strengths, strict=True):
        path = report.adapter.path
        merges.append(
            {
                "adapter": path.name if path else "unnamed",  # without its folders, which are private
                "strength": strength,
                "modules": len(report.applied),
                "of": len(report.entries),
                "version": version(),
            }
        )
    return {**without_hashes(metadata), MERGES_KEY: json.dumps(merges)}
