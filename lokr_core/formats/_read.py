"""A file's tensors -> an ``Adapter``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from .._files import is_finite
from ..adapter import Adapter, LoKrWeights, ModuleName
from ..errors import LoKrError, LoKrFileError, LoKrShapeError, LoKrValueError
from ..kronecker import Factor
from ..peft import CONFIG_NAME, PeftConfig, as_trained, configs_in_metadata, parse_config, target_notes
from ._keys import Parts, describe, split_keys
from ._naming import module_names, producer
from ._scaling import scaling_of
from ._sources import find_source
from ._twice import drop_repeated


def load_adapter(path: str | os.PathLike) -> Adapter:
    """Read a LoKr adapter: a ``.safetensors`` file, a folder with one in it, an index, or one of several shards.

    Returns an ``Adapter``: module name -> ``LoKrWeights`` in the file's own dtype (fp8 as fp16, which holds every fp8
    number), with metadata and everything else in the file. PEFT's ``adapter_config.json`` in the same folder is read
    where the file needs it. Raises LoKrFileError, LoKrShapeError or LoKrValueError.
    """
    source = find_source(Path(path))
    tensors, metadata = source.tensors()
    try:
        adapter = parse_adapter(tensors, metadata, _text(source.config))
    except LoKrError as error:
        error.file = error.file or source.path
        raise
    adapter.path = source.path
    return adapter


def _text(config: Path | None) -> bytes | None:
    """PEFT's configuration as it lies there. What is wrong with it matters only to a file that needs it."""
    try:
        return None if config is None else config.read_bytes()
    except OSError:
        return b""


def parse_adapter(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, peft_config: str | bytes | None = None
) -> Adapter:
    """``load_adapter`` for tensors that are in memory already; ``peft_config`` is the text of adapter_config.json."""
    metadata = dict(metadata or {})
    parts = split_keys(tensors)
    if not parts.lokr:
        raise LoKrFileError(
            "There is no LoKr in this file",
            expected="tensors named …lokr_w1, …lokr_w2 and the like",
            found=describe(parts),
            hint="load it with the loader for what it is",
        )
    known = [module for module, kind in parts.other_kinds.items() if kind != "unknown"]
    every, namings = module_names(dict.fromkeys((*parts.lokr, *known)), metadata)
    names = {module: every[module] for module in parts.lokr}
    notes: list[str] = []
    configs = _configs(parts, metadata, peft_config, notes)
    modules = {}
    for module, found in parts.lokr.items():
        try:
            peft = bool(parts.adapter_names) or "base_model.model." in module
            modules[module] = _weights(module, found, metadata, configs, peft)
        except LoKrError as error:
            error.module = module
            error.hint = error.hint or "the file was cut or converted badly; get it again"
            raise
    notes += _doubts(modules, metadata, configs)
    notes += drop_repeated(modules, names)
    return Adapter(
        modules=modules,
        names=names,
        other=parts.other,
        other_kinds=parts.other_kinds,
        other_names={module: every.get(module) or ModuleName(module, module) for module in parts.other_kinds},
        other_keys=parts.other_keys,
        metadata=metadata,
        producer="PEFT" if any(config.beside for config in configs) else producer(namings, metadata),
        notes=notes,
    )


def _configs(parts: Parts, metadata: Mapping[str, str], text: str | bytes | None, notes: list[str]) -> list[PeftConfig]:
    """PEFT's configurations for the modules that have no alpha; those of the file itself count before one beside it."""
    if all("alpha" in found for found in parts.lokr.values()):
        return []
    configs = configs_in_metadata(metadata)
    if not configs and text is not None:
        config = parse_config(text, CONFIG_NAME)
        if config is None:
            notes.append(f"{CONFIG_NAME} is for another method than LoKr, and was not used")
        else:
            configs = [config]
    return configs


def _config_of(module: str, configs: Iterable[PeftConfig]) -> PeftConfig | None:
    """The configuration with the longest prefix that the module has."""
    return max((c for c in configs if module.startswith(c.prefix)), key=lambda c: len(c.prefix), default=None)


def _doubts(modules: Mapping[str, LoKrWeights], metadata: Mapping[str, str], configs: list[PeftConfig]) -> list[str]:
    """What a user has to know of the file as a whole."""
    notes = []
    bare = [module for module, weights in modules.items() if weights.alpha is None]
    for config in configs:
        notes += target_notes(config, [module for module in bare if _config_of(module, configs) is config])
    assumed = [module for module in bare if _config_of(module, configs) is None]
    if assumed:
        notes.append(
            f"{len(assumed)} modules have no alpha, as in PEFT's files, and there is no adapter_config.json beside the "
            "file: scaling 1 (alpha = r, PEFT's default) is assumed"
        )
    alphas = {(w.alpha, w.rank) for w in modules.values() if w.alpha is not None and w.rank is not None}
    ranks = {rank for _, rank in alphas}
    if (
        len(ranks) > 1
        and len({alpha for alpha, _ in alphas}) == 1
        and "lora_reg_dims" not in metadata.get("ss_network_args", "")
    ):
        notes.append(
            f"the rank differs by layer ({min(ranks)} to {max(ranks)}) and alpha does not: alpha / rank is taken. If "
            "low ranks come out far too strong, the trainer changed ranks after it had set the scale (lora_reg_dims)"
        )
    return notes


def _weights(
    module: str, parts: dict[str, Tensor], metadata: dict[str, str], configs: list[PeftConfig], peft: bool
) -> LoKrWeights:
    """One module's ``LoKrWeights`` out of its tensors by name; ``peft``: its name is as PEFT makes them."""
    notes = []
    if "lokr_t1" in parts:
        notes.append("lokr_t1 is ignored: no trainer gives it a meaning")
    parts = {name: _checked(name, tensor, notes) for name, tensor in parts.items() if name != "lokr_t1"}
    w1 = _factor(parts, "lokr_w1", None, notes)
    w2 = _factor(parts, "lokr_w2", parts.get("lokr_t2"), notes)
    alpha = parts.get("alpha")
    alpha = None if alpha is None else float(alpha)
    config = _config_of(module, configs) if alpha is None else None
    scaling = config.scaling(module, w1, w2, notes) if config else scaling_of(alpha, w1, w2, metadata, notes)
    if alpha is None and (config or peft):
        w1, w2 = as_trained(w1, w2, notes)
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
    if not is_finite(tensor):
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
            notes.append(f"{name} is stored whole and low-rank: the whole one is taken, as LyCORIS does")
        return Factor(whole=whole)
    if a is None or b is None:
        raise LoKrFileError(
            f"The module is incomplete: {name} is missing",
            expected=f"{name}, or {name}_a and {name}_b",
            found=", ".join(sorted(parts)) or "lokr_t1 alone",
        )
    return Factor(a=a, b=b, t=core)
