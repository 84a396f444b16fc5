"""An ``Adapter`` -> a file, in the names and the form of a format."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from .._files import read_header, replacing, save_tensors
from ..adapter import Adapter, LoKrWeights
from ..errors import LoKrError, LoKrValueError
from ..kronecker import Factor
from ..matching import Target
from ..peft import CONFIG_NAME, METADATA_KEY
from ._peft_form import peft_layout
from ._rename import Renamed, rename
from ._scaling import scaling_of
from ._spellings import Layout, layout_of

PEFT_FILE = "adapter_model.safetensors"
"""What PEFT looks for in an adapter's folder."""


class HoldsAdapter(Protocol):
    """A model with trainable LoKr layers, such as ``LoKrModel``."""

    def to_adapter(self) -> Adapter: ...

    def get_base_model(self) -> nn.Module: ...


Model = nn.Module | Mapping[str, Tensor] | str | os.PathLike
"""What names can be looked up in: a module, a state dict, or a checkpoint file, of which the header is read."""


def save_adapter(
    adapter: Adapter | HoldsAdapter,
    path: str | os.PathLike,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
    format: str | None = None,
    model: Model | None = None,
) -> None:
    """Write ``adapter`` as LyCORIS stores it, under its own module names or those of ``format``; read back, it gives
    the same updates.

    adapter: an ``Adapter``, or a model that has one in training (``to_adapter``)
    dtype: of all tensors but alphas
    metadata: added to the adapter's own
    format: None for the adapter's own names, or

    - "kohya": ``lora_unet_…``, as kohya's trainers, A1111, Forge and ComfyUI read
    - "lycoris": ``lycoris_…``, as LyCORIS' ``create_lycoris_from_weights`` and SimpleTuner read
    - "comfyui": ``diffusion_model.…`` with the original names
    - "diffusers": ``unet.…`` or ``transformer.…``, the configuration in the metadata, as ``load_lora_adapter`` reads
    - "peft": ``base_model.model.…`` with ``adapter_config.json`` beside it, as ``PeftModel.from_pretrained`` reads;
      ``path`` is a folder, or a file in it

    model: the model that the adapter is for, by which names are translated between diffusers' and the original ones
        and the axes of convolutions are known; without it, only prefixes and "_" for "." change

    Tensors that are no LoKr are written as well. The file appears whole or not at all. Raises LoKrValueError for what
    a format or ``dtype`` cannot hold, LoKrMatchError where a module has no place in ``model``.
    """
    if not isinstance(adapter, Adapter):
        model = adapter.get_base_model() if model is None else model
        adapter = adapter.to_adapter()
    path, metadata = Path(path), {**adapter.metadata, **(metadata or {})}
    if format is None:
        tensors = dict(adapter.other)
        for module, weights in adapter.items():
            tensors.update({f"{module}.{name}": tensor for name, tensor in _stored(weights, metadata).items()})
        save_tensors(_all_cast(tensors, dtype), path, metadata)
        return
    layout = layout_of(format)
    target = None if model is None else _target(model)
    try:
        modules, others = rename(adapter, layout, target)
        if layout.config is None:
            metadata.pop(METADATA_KEY, None)  # every module has an alpha now
            tensors = _others(adapter, others)
            for module, renamed in modules.items():
                stored = _stored(renamed.weights, metadata)
                tensors.update({f"{module}.{name}": tensor for name, tensor in stored.items()})
            save_tensors(_all_cast(tensors, dtype), path, metadata)
        else:
            _refuse_others(adapter, format)
            _save_with_config(modules, layout, path, dtype, metadata, target)
    except LoKrError as error:
        error.file = error.file or path
        raise


def _target(model: Model) -> Target:
    if isinstance(model, nn.Module):
        # Layers with an adapter in training hold the model's own inside.
        return Target.of({name.replace(".base_layer.", "."): p for name, p in model.named_parameters()})
    if isinstance(model, Mapping):
        return Target.of(model)
    return Target({name: info.shape for name, info in read_header(model).tensors.items()})


def _others(adapter: Adapter, names: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors that are no LoKr, under the new names of their modules where there are any."""
    tensors = {}
    for key, tensor in adapter.other.items():
        module, name = adapter.other_keys.get(key, (key, ""))
        tensors[f"{names[module]}.{name}" if name and module in names else key] = tensor
    return tensors


def _refuse_others(adapter: Adapter, format: str) -> None:
    if adapter.other:
        module, kind = next(iter(adapter.other_kinds.items()), (next(iter(adapter.other)), "unknown"))
        raise LoKrValueError(
            f"The format {format} holds LoKr alone",
            module=module,
            expected="no other tensors",
            found=f"{kind}, {len(adapter.other)} tensors in all",
            hint="save as kohya, lycoris or comfyui, or convert the rest by itself",
        )


def _save_with_config(
    modules: Mapping[str, Renamed],
    layout: Layout,
    path: Path,
    dtype: torch.dtype | None,
    metadata: dict[str, str],
    target: Target | None,
) -> None:
    """Write in PEFT's form, its configuration beside the file or in the metadata."""
    by_prefix: dict[str, dict[str, LoKrWeights]] = defaultdict(dict)
    for full, renamed in modules.items():
        by_prefix[full[: len(full) - len(renamed.path)]][renamed.path] = renamed.weights
    own = () if target is None or layout.config != "beside" else {name.rpartition(".")[0] for name in target.shapes}
    tensors: dict[str, Tensor] = {}
    configs: dict[str, object] = {}
    for prefix, weights in by_prefix.items():
        found, config = peft_layout(weights, own)
        tensors.update({prefix + key: tensor for key, tensor in found.items()})
        configs.update({(prefix if layout.config == "metadata" else "") + key: value for key, value in config.items()})
    tensors = _all_cast(tensors, dtype)
    metadata.pop(METADATA_KEY, None)
    if layout.config == "metadata":
        save_tensors(tensors, path, {**metadata, METADATA_KEY: json.dumps(configs, sort_keys=True)})
        return
    if path.suffix != ".safetensors":
        path.mkdir(parents=True, exist_ok=True)
        path = path / PEFT_FILE
    # The configuration first: a reader that finds the file finds its configuration.
    with replacing(path.with_name(CONFIG_NAME)) as temporary:
        temporary.write_text(json.dumps({**configs, "inference_mode": True}, indent=2, sort_keys=True))
    save_tensors(tensors, path, {"format": "pt", **metadata})


def _all_cast(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    if dtype is None:
        return dict(tensors)
    return {key: t if key.endswith(".alpha") else _cast(key, t, dtype) for key, t in tensors.items()}


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


def _stored(weights: LoKrWeights, metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of one module by name, such that a reader takes the same scaling from them."""
    w1, w2 = weights.w1, weights.w2
    alpha = float(weights.rank or 1) if weights.alpha is None else weights.alpha
    scaling = scaling_of(alpha, w1, w2, metadata)
    if scaling != weights.scaling:
        # A reader takes alpha 0 for alpha = rank, and whole factors for a scaling of their own.
        if weights.rank is not None and weights.scaling != 0:
            alpha = weights.scaling * weights.rank
        else:
            w1 = _times(w1, weights.scaling / scaling)
    tensors = {}
    for name, factor in (("lokr_w1", w1), ("lokr_w2", w2)):
        for part, tensor in factor.tensors.items():
            # LyCORIS' modules and ComfyUI know the kernel of a low-rank factor as columns alone.
            tensor = tensor.flatten(1) if part == "b" and factor.t is None else tensor
            tensors[{"whole": name, "t": "lokr_t2"}.get(part, f"{name}_{part}")] = tensor
    tensors["alpha"] = _scalar(alpha)
    if weights.dora_scale is not None:
        tensors["dora_scale"] = weights.dora_scale
    return tensors


def _times(factor: Factor, ratio: float) -> Factor:
    """ratio * factor, in fp32 at least, for it may leave a half's range."""
    name = "a" if factor.whole is None else "whole"
    tensor = getattr(factor, name)
    return replace(factor, **{name: tensor.to(torch.promote_types(tensor.dtype, torch.float32)) * ratio})


def _scalar(value: float) -> Tensor:
    """fp32 as LyCORIS has it, fp64 where fp32 would change the number."""
    narrow = torch.tensor(value, dtype=torch.float32)
    return narrow if float(narrow) == value else torch.tensor(value, dtype=torch.float64)
