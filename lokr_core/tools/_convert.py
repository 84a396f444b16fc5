"""An adapter as another kind of adapter, under the names that another program reads."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import torch

from ..adapter import Adapter, ModuleName
from ..checkpoints import Checkpoint
from ..conversion import (
    Keep,
)
from ..display import Progress
from ..errors import LoKrValueError, blame
from ..matching import Target, in_named_order
from ..names import DIFFUSERS, supposed_shapes
from ..saving import SPELLINGS, UP_DOWN, Regrouped, component_of, named, regroup, save_named
from ._about import CONVERSION_KEY, dtype_of, format_of, modelspec, note_of, without_hashes
from ._converted import Converted
from ._dora_rules import settle_dora
from ._make import Conversion, made, shared
from ._size import fit_to_size
from ._updates import Updates, read_updates

_SAMPLES = {"lora": "networks.lora", "full": "lycoris.kohya", "lokr": "lycoris.kohya"}


def convert_file(
    path: str | os.PathLike,
    out: str | os.PathLike,
    conversion: Conversion,
    dtype: torch.dtype | None = None,
    model: str | os.PathLike | Target | None = None,
    base: str | os.PathLike | None = None,
    lossy: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Write the adapter ``path`` as another one to ``out``, and report how near each module of it is.

    dtype: of the tensors in ``out``; None for that of the file
    model: file or folder of the model, of which the headers are read, or its target; it tells names, rows and kernels
    base: file or folder of the model itself, which DoRA needs where the target program applies it differently
    lossy: whether a file that keeps under ``ENOUGH`` of the energy is written; without it ``written`` is False

    Raises LoKrError if a file cannot be read or written, or the conversion is not possible.
    """
    updates = read_updates(path)
    source = Checkpoint.of(base) if base is not None else None
    if isinstance(model, Target):
        target: Target | None = model
    else:
        known = source if model is None else Checkpoint.of(model)
        target = None if known is None else Target(known.shapes)
    with blame(file=path):
        found = convert(updates, conversion, target, source, dtype, progress)
    found.before = Path(path).stat().st_size if Path(path).is_file() else found.before
    found.written = found.enough or lossy
    if found.written:
        dtype = dtype or dtype_of(updates.adapter)
        save_named(named(found.modules), Path(out), found.format, dtype, found.metadata, found.other)
    return found


def convert(
    updates: Updates,
    conversion: Conversion,
    target: Target | None = None,
    base: Checkpoint | None = None,
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> Converted:
    """``convert_file`` for updates in memory; nothing is written.

    target: the model that names are looked up in; None: only prefixes change
    base: the model's tensors, for DoRA
    """
    adapter = updates.adapter
    format = conversion.names or format_of(adapter)
    found = Converted([], format, itemsize=(dtype or dtype_of(adapter)).itemsize)
    found.left_out = dict(updates.left_out)
    found.before = sum(weights.numel for weights in adapter.values()) * found.itemsize
    target = _target(adapter, conversion, target, found)
    adapter = adapter if target is None else in_named_order(adapter, target.has_reversed_halves)
    adapter = settle_dora(adapter, conversion.to, format, target, base, found.notes)
    groups, foreign = _groups(adapter, conversion, format, target, found)
    ranks = shared(groups, conversion, found.itemsize)
    for number, group in enumerate(groups):
        with blame(module=group.name.full):
            keep = conversion.keep if ranks is None else Keep(rank=ranks[number])
            found.modules.append(made(group, updates.kinds, conversion, format, keep, found.itemsize))
        if progress:
            progress(number + 1, len(groups))
    found.note_rank_above(conversion.keep)
    _keep_others(adapter, foreign, format, found)
    if conversion.to == "lokr" and conversion.keep.size is not None:
        fit_to_size(found, conversion.keep.size)
    found.metadata = _metadata(adapter, conversion, found)
    if conversion.to == "lokr" and 1 in conversion.factors and len(conversion.factors) == 1:
        found.notes.append("factor 1: W1 is the number 1, which makes a LoRA or a difference of the same size")
    return found


def _target(adapter: Adapter, conversion: Conversion, target: Target | None, found: Converted) -> Target | None:
    """The model that names are looked up in: the one that was given, else the one that the file is for."""
    if adapter.experts and (conversion.names is not None or target is not None):
        raise LoKrValueError(
            "The file holds an expert of a model of two, whose names other programs do not have",
            expected="a file of one model",
            found=" and ".join(f"{expert} noise" for expert in adapter.experts),
            hint="cut it first, which takes the expert out of the names: lokr split FILE",
        )
    return _supposed_target(adapter, found.notes) if conversion.names is not None and target is None else target


def _groups(
    adapter: Adapter, conversion: Conversion, format: str, target: Target | None, found: Converted
) -> tuple[list[Regrouped], dict[str, str]]:
    """The modules of the new file with the rows that they are made of, and new names of the foreign modules."""
    if conversion.names is None and target is None:
        return [Regrouped(adapter.names[m], w.shape, [(0, w)], {m: None}) for m, w in adapter.items()], {}
    if target is not None:
        spelling = SPELLINGS[format]
        if format == "peft":  # it wraps diffusers' models
            spelling = spelling._replace(names=DIFFUSERS)
        groups, foreign, report = regroup(adapter, spelling, target)
        if format == "peft":
            groups = _of_one_model(groups, adapter, found)
        found.left_out |= {entry.module: entry.reason for entry in report.refused if entry.module in adapter}
        report.raise_if_nothing_matched()
        return groups, foreign
    spelling = SPELLINGS[format]
    if any(name.path.startswith(("down_block", "up_block", "mid_block")) for name in adapter.names.values()):
        spelling = spelling.for_unet()
    groups = [Regrouped(_spelled(adapter.names[m], spelling), w.shape, [(0, w)], {m: None}) for m, w in adapter.items()]
    return groups, {m: _spelled(each.name, spelling).full for m, each in adapter.foreign.modules.items()}


def _of_one_model(groups: list[Regrouped], adapter: Adapter, found: Converted) -> list[Regrouped]:
    """The modules of the denoiser, or all if there are none: a file of PEFT's is of one model."""
    kept = [g for g in groups if not any(adapter.names[source].component.startswith("te") for source in g.sources)]
    if not kept or len(kept) == len(groups):
        return groups
    found.left_out |= {
        source: "a PEFT file is of one model: split the text encoders off first (lokr split)"
        for group in groups
        if group not in kept
        for source in group.sources
    }
    return kept


def _supposed_target(adapter: Adapter, notes: list[str]) -> Target | None:
    """The model that a file is for by its names and shapes; None if they do not tell."""
    by_component: dict[str, dict[str, tuple[int, ...]]] = {}
    for module, weights in adapter.items():
        name = adapter.names[module]
        by_component.setdefault(component_of(name), {})[name.path] = weights.shape
    shapes: dict[str, tuple[int, ...]] = {}
    titles = []
    for component, modules in by_component.items():
        supposed = supposed_shapes(modules)
        if supposed is None:
            return None
        titles.append(supposed[0])
        prefix = f"text_encoder_{component[2:] or 1}." if component.startswith("te") else "diffusion_model."
        shapes |= {prefix + name: shape for name, shape in supposed[1].items()}
    notes.append(f"taken for {' with '.join(titles)} by its names and shapes: give --model if it is another")
    return Target(shapes)


def _spelled(name: ModuleName, spelling) -> ModuleName:
    if name.flattened and "_" in name.path and not spelling.flattened:
        raise LoKrValueError(
            "These names have dots, the file has _ for them, and its architecture is not known",
            module=name.full,
            expected="the model that it is for",
            found=name.path,
            hint="give the model, of which the header is read: --model FILE",
        )
    return replace(name, full=spelling.spell(component_of(name), name.path))


def _keep_others(adapter: Adapter, foreign: dict[str, str], format: str, found: Converted) -> None:
    """The biases and norms of the file under their new names, where the format has a place for them."""
    tensors = adapter.foreign.renamed(foreign or None)
    if format not in UP_DOWN:
        kinds = {module: each.kind for module, each in adapter.foreign.modules.items()}
        found.left_out |= {module: f"{format} has no place for {kind}" for module, kind in kinds.items()}
        return
    found.other = tensors


def _metadata(adapter: Adapter, conversion: Conversion, found: Converted) -> dict[str, str]:
    """The file's metadata without what described its kind, with what readers of the new one look for."""
    gone = ("ss_network_", "lora_adapter_metadata", "lycoris_config", "lokr_config", "modelspec.")
    metadata = {key: text for key, text in without_hashes(adapter.metadata).items() if not key.startswith(gone)}
    metadata |= modelspec(adapter, found.format)
    ranks = [made.rank for made in found.modules if made.rank]
    if found.format in UP_DOWN:
        rank = max(set(ranks), key=ranks.count) if ranks else 1
        metadata["ss_network_module"] = _SAMPLES[conversion.to]
        metadata |= {"ss_network_dim": str(rank), "ss_network_alpha": str(rank)}
        if conversion.to != "lora":
            metadata["ss_network_args"] = json.dumps({"algo": conversion.to})
    return {**metadata, CONVERSION_KEY: note_of(adapter, conversion.to, found.energy)}
