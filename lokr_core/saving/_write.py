"""An ``Adapter`` -> a file, in the names and the layout of a format."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from .._files import read_header, save_tensors
from ..adapter import Adapter, LoKrWeights
from ..errors import LoKrMatchError, LoKrValueError, blame
from ..matching import Match, Target, foreign_places, in_named_order, resolve
from ..modules import SPELLINGS, Spelling
from ..peft import METADATA_KEY, WEIGHTS_NAME, write_entries
from ._book import Book
from ._peft_form import peft_layout
from ._rename import Renamed, by_name, renamed, respelled
from ._tensors import all_cast, keyed


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
    path = Path(path)
    with blame(file=path):
        if format is not None and format not in SPELLINGS:
            raise LoKrValueError("Unknown format", expected=", ".join(SPELLINGS), found=repr(format))
        target = None if format is None or model is None else _target(model)
        adapter = adapter if target is None else in_named_order(adapter, target.has_reversed_halves)
        metadata = {**adapter.metadata, **(metadata or {})}
        tensors, modules = dict(adapter.foreign.tensors), dict(adapter)
        if format is not None:
            spelling = SPELLINGS[format]
            found, foreign = rename(adapter, spelling, target)
            metadata.pop(METADATA_KEY, None)  # written anew, or every module has an alpha
            if spelling.config is not None:
                _refuse_foreign(adapter, format)
                _save_with_config(found, spelling, path, dtype, metadata, target)
                return
            tensors = adapter.foreign.renamed(foreign)
            modules = {full: module.weights for full, module in found.items()}
        for full, weights in modules.items():
            tensors |= keyed(full, weights, metadata)
        save_tensors(all_cast(tensors, dtype), path, metadata)


def _target(model: Model) -> Target:
    if isinstance(model, nn.Module):
        # A layer with an adapter in training holds the model's own layer as ``base_layer``.
        return Target.of({name.replace(".base_layer.", "."): p for name, p in model.named_parameters()})
    return Target.of(model if isinstance(model, Mapping) else read_header(model).tensors)


def rename(adapter: Adapter, spelling: Spelling, target: Target | None) -> tuple[dict[str, Renamed], dict[str, str]]:
    """The modules under the names of a format.

    target: the model in which names are translated between diffusers' and the original ones, and updates of fused
        weights are cut if the format names their parts. None: only prefixes and "_" for "." change

    Returns (new full name -> module, old name -> new name of the foreign modules). Raises LoKrMatchError if a module
    does not belong to ``target``, LoKrValueError if the names do not suffice.
    """
    if target is None:
        modules, foreign = respelled(adapter, spelling)
        return by_name(modules), foreign
    book = Book(target.models, spelling)
    places = {module: (slot,) for module, slot in foreign_places(adapter, target).items()}
    foreign = {module: book.names[slots].full for module, slots in places.items() if slots in book.names}
    return by_name(_looked_up(adapter, target, book)), foreign


def _looked_up(adapter: Adapter, target: Target, book: Book) -> Iterator[tuple[str, Renamed]]:
    """(new full name, module) of all modules; of an update that is cut, several."""
    placed, report = resolve(adapter, target)
    missing = [entry for entry in report.refused if entry.kind == "LoKr"]
    if missing:
        raise LoKrMatchError(
            f"{len(missing)} of the {len(adapter)} modules do not belong to the model that names are looked up in",
            module=missing[0].module,
            found=missing[0].reason,
            hint="give the model that the adapter was trained on, or save without one under the names it has",
        )
    matches: dict[str, list[Match]] = {}
    for match in placed:
        matches.setdefault(match.module, []).append(match)
    for module, weights in adapter.items():
        slots = tuple(match.slot for match in matches[module])
        yield from renamed(module, weights.fit((weights.shape[0], *target.shape_of(slots[0])[1:])), slots, book)


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
    for full, module in modules.items():
        by_prefix[full[: len(full) - len(module.path)]][module.path] = module.weights
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
