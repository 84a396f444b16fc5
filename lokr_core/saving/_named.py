"""Updates of any form under names that are spelled already, as the tensors that a program reads."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .._files import save_tensors
from ..adapter import LoKrWeights, ModuleName
from ..conversion import FULL, LOKR, LORA, lora_halves
from ..errors import LoKrValueError, blame
from ..modules import UP_DOWN
from ..peft import METADATA_KEY, WEIGHTS_NAME, write_entries
from ._peft_form import pattern, peft_layout
from ._tensors import all_cast, keyed


class Named(NamedTuple):
    """An update under a new name, taken apart, and the form that it is written in (``LOKR``, ``LORA`` or ``FULL``)."""

    name: ModuleName
    weights: LoKrWeights
    form: str


class Made(Protocol):
    """Anything that tells these three of a module."""

    @property
    def name(self) -> ModuleName: ...

    @property
    def weights(self) -> LoKrWeights: ...

    @property
    def form(self) -> str: ...


def named(modules: Iterable[Made]) -> list[Named]:
    """The modules of a conversion as ``save_named`` takes them."""
    return [Named(each.name, each.weights, each.form) for each in modules]


_DORA = {True: "dora_scale", False: "lora_magnitude_vector"}


def save_named(
    modules: Iterable[Named],
    path: Path,
    format: str,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
    other: Mapping[str, Tensor] | None = None,
) -> None:
    """Write ``modules`` in the layout of ``format``, each as what it is: LoKr, LoRA or full difference.

    other: tensors by key, written as they are
    path: of the file; for "peft" a folder, or a file in it

    Raises LoKrValueError if the format cannot hold an update: diffusers and PEFT hold LoRA or LoKr alone.
    """
    metadata = dict(metadata or {})
    metadata.pop(METADATA_KEY, None)
    modules = list(modules)
    tensors: dict[str, Tensor] = dict(other or {})
    with blame(file=path):
        if format not in UP_DOWN and format in ("peft", "diffusers"):
            _check_forms(modules, format)
            tensors |= _with_config(modules, path, format, metadata)
        else:
            for module in modules:
                tensors |= module_tensors(module, format, metadata)
        if format == "peft":
            path = path if path.suffix == ".safetensors" else path / WEIGHTS_NAME
        save_tensors(all_cast(tensors, dtype), path, {"format": "pt", **metadata})


def module_tensors(module: Named, format: str, metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of one module by key, for a format without a configuration of its own."""
    full, weights = module.name.full, module.weights
    if module.form == LOKR:
        return keyed(full, weights, metadata)
    if module.form == LORA:
        return {f"{full}.{name}": tensor for name, tensor in _lora_tensors(weights, format in UP_DOWN).items()}
    found = {f"{full}.diff": weights.delta()}
    return found if weights.dora_scale is None else {**found, f"{full}.dora_scale": weights.dora_scale}


def _lora_tensors(weights: LoKrWeights, up_down: bool) -> dict[str, Tensor]:
    """A LoRA's tensors by name: up (out, r, 1, ...) and down (r, in, *kernel)."""
    up, down = lora_halves(weights)
    up = up.reshape(*up.shape, *[1] * (down.ndim - 2))
    if not up_down:
        found = {"lora_B.weight": up, "lora_A.weight": down}
    else:
        found = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(float(down.shape[0]))}
    if weights.dora_scale is not None:
        # PEFT's magnitudes of a convolution have its output on their second axis.
        shape = (-1,) if down.ndim == 2 else (1, -1, *[1] * (down.ndim - 2))
        found[_DORA[up_down]] = weights.dora_scale if up_down else weights.dora_scale.reshape(shape)
    return found


def _check_forms(modules: Sequence[Named], format: str) -> None:
    kinds = Counter(module.form for module in modules)
    if FULL in kinds or len(kinds) > 1:
        module = next((each for each in modules if each.form != LORA), modules[0]).name.full
        raise LoKrValueError(
            f"The format {format} holds LoRA alone or LoKr alone",
            module=module,
            expected="modules of one kind",
            found=", ".join(f"{count} {kind}" for kind, count in kinds.most_common()),
            hint="convert all to lora, or write kohya or comfyui names, whose readers take each kind",
        )


def _with_config(modules: Sequence[Named], path: Path, format: str, metadata: dict[str, str]) -> dict[str, Tensor]:
    """The tensors in PEFT's layout; the configuration is written beside them, or put into ``metadata``."""
    by_prefix: dict[str, dict[str, LoKrWeights]] = {}
    for name, weights, _ in modules:
        by_prefix.setdefault(name.full[: len(name.full) - len(name.path)], {})[name.path] = weights
    tensors: dict[str, Tensor] = {}
    configs: dict[str, Any] = {}
    is_lora = any(module.form == LORA for module in modules)
    for prefix, updates in by_prefix.items():
        found, config = _lora_layout(updates) if is_lora else peft_layout(updates)
        tensors |= {prefix + key: tensor for key, tensor in found.items()}
        configs |= {(prefix if format == "diffusers" else "") + key: value for key, value in config.items()}
    if format == "peft":
        # The configuration first: a reader that finds the tensors finds their configuration.
        write_entries(path.parent if path.suffix == ".safetensors" else path, {**configs, "inference_mode": True})
    elif not is_lora:  # a LoRA's ranks are read off its tensors
        metadata[METADATA_KEY] = json.dumps(configs, sort_keys=True)
    return tensors


def _lora_layout(modules: Mapping[str, LoKrWeights]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """LoRAs in PEFT's layout, and the fields of its ``LoraConfig``."""
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, float] = {}
    for module, weights in modules.items():
        tensors |= {f"{module}.{name}": tensor for name, tensor in _lora_tensors(weights, False).items()}
        ranks[module] = weights.w2.rank or 1
    common, others = pattern(ranks)
    return tensors, {
        "r": common,
        "lora_alpha": common,
        "rank_pattern": others,
        "alpha_pattern": others,
        # PEFT matches entries of a list as suffixes, which may name other modules of the model too.
        "target_modules": "|".join(map(re.escape, modules)),
        "use_dora": any(weights.dora_scale is not None for weights in modules.values()),
        "peft_type": "LORA",
    }
