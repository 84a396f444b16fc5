"""Any adapter file as updates of one form: a LoRA, a LoHa or a full difference is a LoKr with the number 1 as W1."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from .._files import load_tensors
from ..adapter import Adapter, Foreign, LoKrWeights
from ..conversion import loha
from ..errors import LoKrFileError, LoKrShapeError, LoKrValueError, blame
from ..formats import describe, load_adapter, module_names, producer, split_keys
from ..kronecker import is_finite
from ..matching import foreign_updates


@dataclass
class Updates:
    """All updates of a file.

    adapter: those of matrices, each as ``LoKrWeights``; its ``foreign`` holds the columns, which are kept as they are
    kinds: module -> what it was in the file
    left_out: module -> why it cannot be converted
    """

    adapter: Adapter
    kinds: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def read_updates(path: str | os.PathLike) -> Updates:
    """The updates of any adapter file: LoKr, LoRA, LoHa, full differences. Raises LoKrFileError if it has none."""
    found = updates_of(load_any(path))
    if not found.adapter:
        raise LoKrFileError(
            "There is nothing in this file that can be converted",
            file=path,
            expected="LoKr, LoRA, LoHa or full differences",
            found="; ".join(dict.fromkeys(found.left_out.values())) or "biases and norms alone",
        )
    return found


def load_any(path: str | os.PathLike) -> Adapter:
    """The adapter in a file, which may hold no LoKr."""
    path = Path(path)
    if not path.is_file() or path.suffix != ".safetensors":
        return load_adapter(path)
    tensors, metadata = load_tensors(path)
    found = split_keys(tensors)
    if found.lokr:
        return load_adapter(path)
    known = [module for module, each in found.foreign.modules.items() if each.kind != "unknown"]
    if not known:
        raise LoKrFileError(
            "This is not an adapter",
            file=path,
            expected="LoKr, LoRA, ...",
            found=describe(found),
            hint="name the adapter's file; a model is given as --model or --base",
        )
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not is_finite(tensor.float() if tensor.dtype.itemsize == 1 else tensor):
            raise LoKrValueError(
                "A tensor holds NaN or Inf",
                file=path,
                module=key,
                expected="finite numbers",
                hint="the training went wrong; use an earlier checkpoint",
            )
    names, namings = module_names(dict.fromkeys(known), metadata)
    foreign = found.foreign.named(names)
    return Adapter({}, {}, foreign, metadata, producer(namings, metadata), path)


def updates_of(adapter: Adapter) -> Updates:
    """The updates of ``adapter`` as LoKr; biases, norms and what no form is known of stay foreign."""
    modules = dict(adapter.modules)
    names = dict(adapter.names)
    found = Updates(adapter, dict.fromkeys(modules, "LoKr"))
    known = foreign_updates(adapter)
    kept = []
    for module, each in adapter.foreign.modules.items():
        with blame(file=adapter.path, module=module, hint="the file was cut or converted badly; get it again"):
            parts = known.get(module) or _loha(adapter.foreign.of(module))
        matrix = parts.get("weight")
        if matrix is None or matrix.shape[1] == 1:
            if module not in known:
                found.left_out[module] = f"{each.kind} has no form that can be converted"
            kept.append(module)
            continue
        if module in modules:
            raise LoKrValueError("A module has a LoKr and another update", file=adapter.path, module=module)
        modules[module], names[module], found.kinds[module] = _wide(matrix), each.name, each.kind
        kept += [module] if len(parts) > 1 else []
    foreign = _without_matrices(adapter.foreign.select(kept), modules)
    found.adapter = replace(adapter, modules=modules, names=names, foreign=foreign)
    return found


def _loha(tensors: Mapping[str, Tensor]) -> dict[str, LoKrWeights]:
    try:
        weights = loha(tensors)
    except (RuntimeError, IndexError) as error:
        raise LoKrShapeError(f"The halves of a LoHa do not fit: {error}") from None
    return {} if weights is None else {"weight": weights}


def _wide(weights: LoKrWeights) -> LoKrWeights:
    """fp8 as fp16, which holds every fp8 number."""
    narrow = any(t.dtype.itemsize == 1 for t in weights.w2.tensors.values())
    return replace(weights, w2=weights.w2.to(torch.float16)) if narrow else weights


def _without_matrices(foreign: Foreign, matrices: Mapping[str, LoKrWeights]) -> Foreign:
    """The same without the tensors of updates that are converted: biases alone are left of those modules."""
    modules = {}
    for module, each in foreign.modules.items():
        keys = (
            each.keys if module not in matrices else {k: n for k, n in each.keys.items() if n in ("diff_b", "b_norm")}
        )
        modules[module] = replace(each, keys=keys)
    tensors = {key: foreign.tensors[key] for each in modules.values() for key in each.keys}
    return Foreign(tensors, {module: each for module, each in modules.items() if each.keys})
