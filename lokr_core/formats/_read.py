"""A file's tensors -> an ``Adapter``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from torch import Tensor

from ..adapter import Adapter, LoKrWeights, ModuleName
from ..errors import LoKrError, LoKrFileError, blame
from ..modules import PREFIX, two_experts
from ..peft import CONFIG_NAME
from ..scaling import NO_ALPHA, scaling_of
from ._duplicates import drop_duplicates
from ._keys import SortedKeys, describe, split_keys
from ._module import weights_of
from ._naming import module_names, producer
from ._sources import find_source
from ._stored import StoredConfig, stored_configs


def load_adapter(path: str | os.PathLike, expert: str = "") -> Adapter:
    """Read a LoKr adapter.

    path: a ``.safetensors`` file, a folder with one in it, an index, or one of several shards. PEFT's
        ``adapter_config.json`` in the same folder is read if the file needs it
    expert: "high" or "low", of a file for a model of two experts (Wan 2.2): the modules of the other are left out

    Returns an ``Adapter``: module name -> ``LoKrWeights`` in the file's own dtype (fp8 as fp16, which holds every fp8
    number), with metadata and everything else in the file. Raises LoKrFileError, LoKrShapeError or LoKrValueError.
    """
    source = find_source(Path(path))
    tensors, metadata = source.tensors()
    with blame(file=source.path):
        adapter = parse_adapter(tensors, metadata, source.config, expert)
    adapter.path = source.path
    return adapter


def parse_adapter(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    peft_config: str | bytes | None = None,
    expert: str = "",
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
    every, namings = _names(found, metadata)
    names = {module: every[module] for module in found.lokr}
    configs, notes = _configs(found, metadata, peft_config)
    modules = {}
    for module, parts in found.lokr.items():
        with blame(module=module, hint="the file was cut or converted badly; get it again"):
            config = _config_of(module, configs)
            peft = bool(config or found.adapter_names or "networkType" in metadata) or PREFIX in module
            configured = partial(config.scaling, module) if config else None
            scaling = partial(scaling_of, metadata=metadata, configured=configured)
            modules[module] = weights_of(parts, scaling, peft)
    notes += _doubts(modules, metadata, configs) + _rotated(found)
    notes += drop_duplicates(modules, names)
    who = _writer(configs, namings, metadata, every)
    adapter = Adapter(modules, names, found.foreign.named(every), metadata, who, notes=notes)
    if len(adapter.experts) == 2:
        adapter.notes.append(two_experts(names.values()))
    return adapter.for_expert(expert)


def names_and_writer(
    found: SortedKeys, metadata: Mapping[str, str], peft_config: str | bytes | None
) -> tuple[dict[str, ModuleName], str]:
    """(names of a file's modules taken apart, who wrote it), as ``parse_adapter`` tells them, without any number read.

    found: its keys, sorted; peft_config: the text of ``adapter_config.json`` beside it
    """
    names, namings = _names(found, metadata)
    try:
        configs, _ = _configs(found, metadata, peft_config)
    except LoKrError:
        configs = []
    return names, _writer(configs, namings, metadata, names)


def _names(found: SortedKeys, metadata: Mapping[str, str]) -> tuple[dict[str, ModuleName], dict[str, None]]:
    known = [module for module, each in found.foreign.modules.items() if each.kind != "unknown"]
    return module_names(dict.fromkeys((*found.lokr, *known)), metadata)


def _writer(
    configs: Iterable[StoredConfig],
    namings: Iterable[str],
    metadata: Mapping[str, str],
    names: Mapping[str, ModuleName],
) -> str:
    beside = any(config.source == CONFIG_NAME for config in configs)
    return "PEFT" if beside else producer(namings, metadata, names.values())


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


def _rotated(found: SortedKeys) -> list[str]:
    """A note on modules that have an OFT rotation beside their LoKr (``use_dora_oft`` of musubi-tuner's LTX-2 fork)."""
    modules = [m for m, each in found.foreign.modules.items() if m in found.lokr and "OFT" in each.kind]
    if not modules:
        return []
    return [
        f"{len(modules)} modules, such as {modules[0]}, were trained with an OFT rotation beside their LoKr: it is not "
        "applied, so they differ from what was trained"
    ]


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
    assumed = [module for module in bare if not set(NO_ALPHA).isdisjoint(modules[module].notes)]
    if assumed:
        notes.append(
            f"{len(assumed)} modules have no alpha, as in PEFT's files, and there is no {CONFIG_NAME} beside the "
            "file: scaling 1 (alpha = r, PEFT's default) is assumed"
        )
    low_rank = [w for w in modules.values() if w.alpha is not None and w.rank is not None]
    ranks = {w.rank for w in low_rank if w.rank}
    one_alpha = len({w.alpha for w in low_rank}) == 1
    if len(ranks) > 1 and one_alpha and "reg_dims" not in metadata.get("ss_network_args", ""):
        notes.append(
            f"the rank differs by layer ({min(ranks)} to {max(ranks)}) and alpha does not: alpha / rank is taken. If "
            "low ranks come out far too strong, the trainer changed ranks after it had set the scale (lora_reg_dims)"
        )
    return notes
