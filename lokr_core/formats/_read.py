"""A file's tensors -> an ``Adapter``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..adapter import Adapter, LoKrWeights
from ..errors import LoKrFileError, LoKrShapeError, LoKrValueError, blame
from ..kronecker import Factor, core_name, is_finite, reversed_factors
from ..peft import CONFIG_NAME, PREFIX, StoredConfig, is_reversed, stored_configs
from ._duplicates import drop_duplicates
from ._keys import SortedKeys, describe, split_keys
from ._naming import module_names, producer
from ._scaling import scaling_of
from ._sources import find_source


def load_adapter(path: str | os.PathLike) -> Adapter:
    """Read a LoKr adapter.

    path: a ``.safetensors`` file, a folder with one in it, an index, or one of several shards. PEFT's
        ``adapter_config.json`` in the same folder is read if the file needs it

    Returns an ``Adapter``: module name -> ``LoKrWeights`` in the file's own dtype (fp8 as fp16, which holds every fp8
    number), with metadata and everything else in the file. Raises LoKrFileError, LoKrShapeError or LoKrValueError.
    """
    source = find_source(Path(path))
    tensors, metadata = source.tensors()
    with blame(file=source.path):
        adapter = parse_adapter(tensors, metadata, source.config)
    adapter.path = source.path
    return adapter


def parse_adapter(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, peft_config: str | bytes | None = None
) -> Adapter:
    """``load_adapter`` for tensors in memory.

    tensors: by the keys of a file; peft_config: the text of ``adapter_config.json``

    >>> parse_adapter({"lora_unet_a.lokr_w1": torch.ones(2, 2), "lora_unet_a.lokr_w2": torch.ones(3, 3)})
    <Adapter: 1 LoKr modules, kohya-ss / LyCORIS>
    """
    metadata = dict(metadata or {})
    found = split_keys(tensors)
    if not found.lokr:
        raise LoKrFileError(
            "There is no LoKr in this file",
            expected="tensors named …lokr_w1, …lokr_w2 and the like",
            found=describe(found),
            hint="load it with the loader for what it is",
        )
    known = [module for module, each in found.foreign.modules.items() if each.kind != "unknown"]
    every, namings = module_names(dict.fromkeys((*found.lokr, *known)), metadata)
    names = {module: every[module] for module in found.lokr}
    configs, notes = _configs(found, metadata, peft_config)
    modules = {}
    for module, parts in found.lokr.items():
        with blame(module=module, hint="the file was cut or converted badly; get it again"):
            config = _config_of(module, configs)
            peft = bool(config or found.adapter_names) or PREFIX in module
            modules[module] = _weights(module, parts, metadata, config, peft)
    notes += _doubts(modules, metadata, configs)
    notes += drop_duplicates(modules, names)
    who = "PEFT" if any(config.source == CONFIG_NAME for config in configs) else producer(namings, metadata)
    return Adapter(modules, names, found.foreign.named(every), metadata, who, notes=notes)


def _configs(
    found: SortedKeys, metadata: Mapping[str, str], text: str | bytes | None
) -> tuple[list[StoredConfig], list[str]]:
    """(PEFT's configurations for the modules without alpha, notes). Those in the file win over one beside it."""
    if all("alpha" in parts for parts in found.lokr.values()):
        return [], []
    configs = stored_configs(metadata, text)
    unused = text is not None and not configs
    return configs, [f"{CONFIG_NAME} is for another method than LoKr, and was not used"] if unused else []


def _config_of(module: str, configs: Iterable[StoredConfig]) -> StoredConfig | None:
    """The configuration with the longest prefix that the module has."""
    return max((c for c in configs if module.startswith(c.prefix)), key=lambda c: len(c.prefix), default=None)


def _doubts(modules: Mapping[str, LoKrWeights], metadata: Mapping[str, str], configs: list[StoredConfig]) -> list[str]:
    """Notes on the file as a whole."""
    notes = []
    bare = [module for module, weights in modules.items() if weights.alpha is None]
    for config in configs:
        strangers = config.unexpected(module for module in bare if _config_of(module, configs) is config)
        if strangers:
            notes.append(
                f"{len(strangers)} modules, such as {strangers[0]}, are not among the target_modules of "
                f"{config.source}: they are used all the same"
            )
    assumed = [module for module in bare if _config_of(module, configs) is None]
    if assumed:
        notes.append(
            f"{len(assumed)} modules have no alpha, as in PEFT's files, and there is no {CONFIG_NAME} beside the "
            "file: scaling 1 (alpha = r, PEFT's default) is assumed"
        )
    low_rank = [w for w in modules.values() if w.alpha is not None and w.rank is not None]
    ranks = {w.rank for w in low_rank if w.rank}
    one_alpha = len({w.alpha for w in low_rank}) == 1
    if len(ranks) > 1 and one_alpha and "lora_reg_dims" not in metadata.get("ss_network_args", ""):
        notes.append(
            f"the rank differs by layer ({min(ranks)} to {max(ranks)}) and alpha does not: alpha / rank is taken. If "
            "low ranks come out far too strong, the trainer changed ranks after it had set the scale (lora_reg_dims)"
        )
    return notes


def _weights(
    module: str, tensors: dict[str, Tensor], metadata: dict[str, str], config: StoredConfig | None, peft: bool
) -> LoKrWeights:
    """One module's ``LoKrWeights``.

    tensors: by name; config: PEFT's for this module, used if it has no alpha; peft: whether PEFT trained it
    """
    notes: list[str] = []
    if "lokr_t1" in tensors:
        notes.append("lokr_t1 is ignored: no trainer gives it a meaning")
        tensors = {name: tensor for name, tensor in tensors.items() if name != "lokr_t1"}
    if any(tensor.dtype.itemsize == 1 for name, tensor in tensors.items() if name != "alpha"):
        notes.append("fp8 factors, read as fp16")
    tensors = {name: _checked(name, tensor) for name, tensor in tensors.items()}
    w1, w2 = _factor(tensors, "lokr_w1"), _factor(tensors, "lokr_w2")
    for name, factor in (("lokr_w1", w1), ("lokr_w2", w2)):
        if factor.whole is not None and {f"{name}_a", f"{name}_b", core_name(name)} & tensors.keys():
            notes.append(f"{name} is stored whole and low-rank: the whole one is taken, as LyCORIS does")
    alpha = float(tensors["alpha"]) if "alpha" in tensors else None
    if config and alpha is None:
        scaling, assumed = config.scaling(module, w1.rank, w2.rank, w2.shape)
    else:
        scaling, assumed = scaling_of(alpha, w1, w2, metadata)
    notes += assumed
    if alpha is None and peft and is_reversed(w2.rank, w2.shape):
        w1, w2 = reversed_factors(w1, w2)
        notes.append("PEFT trains a Conv1d's whole factors as w2 ⊗ w1, and so they are read")
    return LoKrWeights(w1, w2, scaling, tensors.get("dora_scale"), alpha, tuple(dict.fromkeys(notes)))


def _checked(name: str, tensor: Tensor) -> Tensor:
    """The tensor with fp8 upcast, alpha as a single number. Raises LoKrValueError if a number is not finite; alpha's
    is checked where it counts."""
    if name == "alpha":
        if tensor.numel() != 1:
            raise LoKrShapeError("alpha is not one number", expected="shape () or (1,)", found=tuple(tensor.shape))
        return tensor.double().reshape(())
    if not tensor.is_floating_point():
        raise LoKrValueError(
            f"{name} is not stored as floating point numbers",
            expected="fp32, fp16, bf16 or fp8",
            found=str(tensor.dtype).removeprefix("torch."),
            hint="quantised factors are useless without their scales; get the file as its trainer wrote it",
        )
    if tensor.dtype.itemsize == 1:
        tensor = tensor.half()
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


def _factor(tensors: Mapping[str, Tensor], name: str) -> Factor:
    """The factor ``lokr_w1`` or ``lokr_w2``. Raises LoKrFileError if its tensors are incomplete."""
    if name not in tensors and not {f"{name}_a", f"{name}_b"} <= tensors.keys():
        raise LoKrFileError(
            f"The module is incomplete: {name} is missing",
            expected=f"{name}, or {name}_a and {name}_b",
            found=", ".join(sorted(tensors)) or "lokr_t1 alone",
        )
    return Factor.from_tensors(tensors, name)
