"""An ``Adapter`` -> a file, in the names and the layout of a format."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from .._files import read_header, save_tensors
from ..adapter import Adapter, LoKrWeights
from ..errors import LoKrValueError, blame
from ..formats import scaling_of
from ..kronecker import Factor
from ..matching import Target
from ..peft import METADATA_KEY, WEIGHTS_NAME, write_entries
from ._peft_form import peft_layout
from ._rename import Renamed, rename
from ._spellings import SPELLINGS, Spelling


class HoldsAdapter(Protocol):
    """A model with trainable LoKr layers, such as ``LoKrModel``."""

    def to_adapter(self) -> Adapter: ...

    def get_base_model(self) -> nn.Module: ...


Model = nn.Module | Mapping[str, Tensor] | str | os.PathLike
"""Where names are looked up: a module, a state dict, or a checkpoint file, of which the header is read."""


def save_adapter(
    adapter: Adapter | HoldsAdapter,
    path: str | os.PathLike,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
    format: str | None = None,
    model: Model | None = None,
) -> None:
    """Write ``adapter`` such that it gives the same updates when it is read back. The file appears whole or not at all.

    adapter: an ``Adapter``, or a model that has one in training
    path: of the file; for PEFT, of its folder
    dtype: of all tensors but alphas; None: as they are
    metadata: added to the adapter's own
    format: None for the adapter's own names, or

    - "kohya": ``lora_unet_…``, as kohya's trainers, A1111, Forge and ComfyUI read
    - "lycoris": ``lycoris_…``, as LyCORIS' ``create_lycoris_from_weights`` and SimpleTuner read
    - "comfyui": ``diffusion_model.…`` with the original names
    - "diffusers": ``unet.…`` or ``transformer.…``, the configuration in the metadata, as ``load_lora_adapter`` reads
    - "peft": ``base_model.model.…`` with ``adapter_config.json`` beside it, as ``PeftModel.from_pretrained`` reads;
      ``path`` is a folder, or a file in it

    model: the model that the adapter is for. It translates between diffusers' and the original names, and tells the
        axes of convolutions; without it, only prefixes and "_" for "." change

    Foreign tensors are written as well. Raises LoKrValueError if the format or ``dtype`` cannot hold a tensor,
    LoKrMatchError if a module does not belong to ``model``.
    """
    if not isinstance(adapter, Adapter):
        model = adapter.get_base_model() if model is None else model
        adapter = adapter.to_adapter()
    path, metadata = Path(path), {**adapter.metadata, **(metadata or {})}
    tensors, modules = dict(adapter.foreign.tensors), dict(adapter)
    with blame(file=path):
        if format is not None:
            if format not in SPELLINGS:
                raise LoKrValueError("Unknown format", expected=", ".join(SPELLINGS), found=repr(format))
            spelling, target = SPELLINGS[format], None if model is None else _target(model)
            renamed, foreign = rename(adapter, spelling, target)
            metadata.pop(METADATA_KEY, None)  # written anew, or every module has an alpha
            if spelling.config is not None:
                _refuse_foreign(adapter, format)
                _save_with_config(renamed, spelling, path, dtype, metadata, target)
                return
            tensors = adapter.foreign.renamed(foreign)
            modules = {full: module.weights for full, module in renamed.items()}
        for full, weights in modules.items():
            tensors |= keyed(full, weights, metadata)
        save_tensors(all_cast(tensors, dtype), path, metadata)


def _target(model: Model) -> Target:
    if isinstance(model, nn.Module):
        # A layer with an adapter in training holds the model's own layer as ``base_layer``.
        return Target.of({name.replace(".base_layer.", "."): p for name, p in model.named_parameters()})
    return Target.of(model if isinstance(model, Mapping) else read_header(model).tensors)


def _refuse_foreign(adapter: Adapter, format: str) -> None:
    if adapter.foreign.tensors:
        kinds = {module: each.kind for module, each in adapter.foreign.modules.items()}
        module, kind = next(iter(kinds.items()), (next(iter(adapter.foreign.tensors)), "unknown"))
        raise LoKrValueError(
            f"The format {format} holds LoKr alone",
            module=module,
            expected="no other tensors",
            found=f"{kind}, {len(adapter.foreign.tensors)} tensors in all",
            hint="save as kohya, lycoris or comfyui, or convert the rest by itself",
        )


def _save_with_config(
    modules: Mapping[str, Renamed],
    spelling: Spelling,
    path: Path,
    dtype: torch.dtype | None,
    metadata: dict[str, str],
    target: Target | None,
) -> None:
    """Write in PEFT's layout, its configuration beside the file or in the metadata."""
    by_prefix: dict[str, dict[str, LoKrWeights]] = defaultdict(dict)
    for full, renamed in modules.items():
        by_prefix[full[: len(full) - len(renamed.path)]][renamed.path] = renamed.weights
    own = () if target is None or spelling.config != "beside" else {name.rpartition(".")[0] for name in target.shapes}
    tensors: dict[str, Tensor] = {}
    configs: dict[str, object] = {}
    for prefix, weights in by_prefix.items():
        found, config = peft_layout(weights, own)
        tensors |= {prefix + key: tensor for key, tensor in found.items()}
        configs |= {(prefix if spelling.config == "metadata" else "") + key: value for key, value in config.items()}
    tensors = all_cast(tensors, dtype)
    if spelling.config == "metadata":
        save_tensors(tensors, path, {**metadata, METADATA_KEY: json.dumps(configs, sort_keys=True)})
        return
    path = path if path.suffix == ".safetensors" else path / WEIGHTS_NAME
    # The configuration first: a reader that finds the tensors finds their configuration.
    write_entries(path.parent, {**configs, "inference_mode": True})
    save_tensors(tensors, path, {"format": "pt", **metadata})


def all_cast(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The tensors but alphas in ``dtype``. Raises LoKrValueError if it cannot hold a number."""
    return {k: t if dtype is None or k.endswith(".alpha") else _cast(k, t, dtype) for k, t in tensors.items()}


def _cast(key: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not dtype.is_floating_point:
        raise LoKrValueError("An adapter cannot be stored in this dtype", expected="a floating dtype", found=dtype)
    if not tensor.is_floating_point():
        return tensor
    cast = tensor.to(dtype)
    if bool((cast.float().isfinite() != tensor.float().isfinite()).any()):
        raise LoKrValueError(
            f"{key.rpartition('.')[2]} holds numbers that {str(dtype).removeprefix('torch.')} cannot",
            module=key.rpartition(".")[0],
            expected=f"at most {torch.finfo(dtype).max:g}",
            found=f"{float(tensor.float().abs().max()):g}",
            hint="save in another dtype, such as bfloat16 or float32",
        )
    return cast


def keyed(module: str, weights: LoKrWeights, metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """A module's tensors by key, such that a reader takes the same scaling from them."""
    alpha = float(weights.rank or 1) if weights.alpha is None else weights.alpha
    scaling, _ = scaling_of(alpha, weights.w1, weights.w2, metadata)
    if scaling != weights.scaling:
        # A reader takes alpha 0 for alpha = rank, and whole factors have a scaling that no alpha changes.
        if weights.rank is not None and weights.scaling != 0:
            alpha = weights.scaling * weights.rank
            scaling, _ = scaling_of(alpha, weights.w1, weights.w2, metadata)
        # Some trainers' metadata give another rank to divide by.
        if not math.isclose(scaling, weights.scaling, rel_tol=1e-12):
            weights = replace(weights, w1=_times(weights.w1, weights.scaling / scaling))
    tensors = {**weights.tensors, "alpha": _scalar(alpha)}
    return {f"{module}.{name}": tensor for name, tensor in tensors.items()}


def _times(factor: Factor, ratio: float) -> Factor:
    """ratio * factor, in fp32 at least: the product may overflow fp16."""
    name = "a" if factor.whole is None else "whole"
    tensor = getattr(factor, name)
    return replace(factor, **{name: tensor.to(torch.promote_types(tensor.dtype, torch.float32)) * ratio})


def _scalar(value: float) -> Tensor:
    """fp32 as in LyCORIS, fp64 if fp32 would change the number."""
    narrow = torch.tensor(value, dtype=torch.float32)
    return narrow if float(narrow) == value else torch.tensor(value, dtype=torch.float64)
