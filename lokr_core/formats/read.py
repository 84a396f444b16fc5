"""A file's tensors -> an ``Adapter``."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..adapter import Adapter, LoKrWeights
from ..errors import LoKrError, LoKrFileError, LoKrShapeError, LoKrValueError
from ..files import load_tensors
from ..kronecker import Factor
from .naming import LOKR_TENSORS, describe, module_name, other_kinds
from .scaling import scaling_of

__all__ = ["load_adapter", "parse_adapter"]


def load_adapter(path: str | os.PathLike) -> Adapter:
    """Read a LoKr adapter from a ``.safetensors`` file.

    Returns an ``Adapter``: module name -> ``LoKrWeights`` in the file's own dtype (fp8 as fp16, which holds every fp8
    number), with metadata and everything else in the file. Raises LoKrFileError, LoKrShapeError or LoKrValueError.
    """
    path = Path(path)
    tensors, metadata = load_tensors(path)
    try:
        adapter = parse_adapter(tensors, metadata)
    except LoKrError as error:
        error.file = path
        raise
    adapter.path = path
    return adapter


def parse_adapter(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Adapter:
    """``load_adapter`` for tensors that are in memory already."""
    metadata = dict(metadata or {})
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    rest: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        module, _, name = key.rpartition(".")
        if name in LOKR_TENSORS and module:
            parts[module][name] = tensor
        else:
            rest[key] = tensor
    for module, found in parts.items():
        for name in ("alpha", "dora_scale"):
            tensor = rest.pop(f"{module}.{name}", None)
            if tensor is not None:
                found[name] = tensor
    if not parts:
        raise LoKrFileError(
            "There is no LoKr in this file",
            expected="tensors named …lokr_w1, …lokr_w2 and the like",
            found=describe(rest),
            hint="load it with the loader for what it is",
        )
    modules, names, producers = {}, {}, {}
    for module, found in parts.items():
        names[module], producer = module_name(module)
        producers[producer] = None
        try:
            modules[module] = _weights(found, metadata)
        except LoKrError as error:
            error.module = module
            error.hint = error.hint or "the file was cut or converted badly; get it again"
            raise
    kinds = other_kinds(rest)
    other_names = {module: module_name(module)[0] for module in kinds}
    return Adapter(modules, names, rest, kinds, other_names, metadata, producer=", ".join(producers))


def _weights(parts: dict[str, Tensor], metadata: dict[str, str]) -> LoKrWeights:
    """One module's ``LoKrWeights`` out of its tensors by name."""
    notes = []
    if "lokr_t1" in parts:
        notes.append("lokr_t1 is ignored: no trainer gives it a meaning")
    parts = {name: _checked(name, tensor, notes) for name, tensor in parts.items() if name != "lokr_t1"}
    w1 = _factor(parts, "lokr_w1", None, notes)
    w2 = _factor(parts, "lokr_w2", parts.get("lokr_t2"), notes)
    alpha = parts.get("alpha")
    alpha = None if alpha is None else float(alpha)
    scaling = scaling_of(alpha, w1, w2, metadata, notes)
    return LoKrWeights(w1, w2, scaling, parts.get("dora_scale"), alpha, tuple(dict.fromkeys(notes)))


def _checked(name: str, tensor: Tensor, notes: list[str]) -> Tensor:
    """A tensor whose numbers are all finite, fp8 upcast; alpha as a single number, which need not be finite."""
    if name == "alpha":
        if tensor.numel() != 1:
            raise LoKrShapeError("alpha is not one number", expected="shape () or (1,)", found=tuple(tensor.shape))
        return tensor.double().reshape(())
    if not tensor.is_floating_point():
        raise LoKrValueError(
            f"{name} is not stored as floating point numbers",
            expected="fp32, fp16, bf16 or fp8",
            found=str(tensor.dtype).removeprefix("torch."),
            hint="quantised factors mean nothing without their scales; get the file as its trainer wrote it",
        )
    if tensor.dtype.itemsize == 1:
        tensor = tensor.half()
        notes.append("fp8 factors, read as fp16")
    if tensor.numel() == 0:
        raise LoKrValueError(f"{name} is empty", expected="at least one number", found=tuple(tensor.shape))
    low, high = torch.aminmax(tensor)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise LoKrValueError(
            f"{name} holds NaN or Inf",
            expected="finite numbers",
            found=f"{int((~torch.isfinite(tensor)).sum()):,} of {tensor.numel():,} are not",
            hint="the training went wrong; use an earlier checkpoint",
        )
    return tensor


def _factor(parts: dict[str, Tensor], name: str, core: Tensor | None, notes: list[str]) -> Factor:
    """The factor ``lokr_w1`` or ``lokr_w2`` in whichever form it is stored."""
    whole, a, b = (parts.get(name + end) for end in ("", "_a", "_b"))
    if whole is not None:
        if a is not None or b is not None or core is not None:
            notes.append(f"{name} is stored whole and low-rank; the whole one is taken, as LyCORIS does")
        return Factor(whole=whole)
    if a is None or b is None:
        raise LoKrFileError(
            f"The module is incomplete: {name} is missing",
            expected=f"{name}, or {name}_a and {name}_b",
            found=", ".join(sorted(parts)) or "lokr_t1 alone",
        )
    return Factor(a=a, b=b, t=core)
