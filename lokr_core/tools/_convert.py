"""An adapter as another kind of adapter, under the names that another program reads."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import torch

from ..adapter import Adapter, LoKrWeights, ModuleName
from ..checkpoints import Checkpoint
from ..conversion import (
    FULL,
    LOKR,
    LORA,
    Dense,
    Keep,
    KronSvd,
    LowRank,
    Nearest,
    best_product,
    form_of,
    full,
    joined,
    lora,
    lora_halves,
    shared_ranks,
    stacked,
)
from ..display import Progress, human_bytes
from ..errors import LoKrValueError, blame
from ..kronecker import kron_norm
from ..matching import Target
from ..names import DIFFUSERS, supposed_shapes
from ..saving import SPELLINGS, UP_DOWN, Regrouped, component_of, regroup, save_named
from ._converted import Converted, Made
from ._dora_rules import settle_dora
from ._updates import Updates, read_updates
from ._version import version

TO = ("lora", "full", "lokr")
REFUSE, AS_LORA, NEAREST, AS_FULL = "refuse", "lora", "nearest", "full"
INEXACT = (REFUSE, AS_LORA, NEAREST, AS_FULL)
"""What to do with rows of a LoKr that are no LoKr of the same factors."""
FACTORS = (-1, 2, 4, 8, 16, 32)
"""The factors that the nearest LoKr is looked for with."""
CONVERSION_KEY = "lokr.converted"
"""The key of ``__metadata__`` that says, as JSON, what a file was converted from and how near it is."""

_EXACT = 1 - 1e-10  # energy: what is lost is rounding
_SAMPLES = {"lora": "networks.lora", "full": "lycoris.kohya", "lokr": "lycoris.kohya"}


@dataclass(frozen=True)
class Conversion:
    """What to make of an adapter.

    to: "lora", "full" or "lokr"; names: a key of ``SPELLINGS``, None for the file's own
    keep: how much of an update a LoRA, or a low-rank W2, keeps
    factors: of the nearest LoKr, the best of which is taken; min_energy: below it a LoRA or a difference stays one
    inexact: one of ``INEXACT``

    Raises LoKrValueError if an option is unknown or out of range.
    """

    to: str
    names: str | None = None
    keep: Keep = Keep()
    min_energy: float = 0.9
    inexact: str = REFUSE
    factors: Sequence[int] = FACTORS

    def __post_init__(self):
        for name, value, known in (("to", self.to, TO), ("inexact", self.inexact, INEXACT)):
            if value not in known:
                raise LoKrValueError(f"Unknown value of {name}", expected=", ".join(known), found=repr(value))
        if self.names is not None and self.names not in SPELLINGS:
            raise LoKrValueError("Unknown names", expected=", ".join(SPELLINGS), found=repr(self.names))
        if not 0 <= self.min_energy <= 1:
            raise LoKrValueError("min_energy is out of range", expected="0 to 1", found=self.min_energy)


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
        save_named(
            found.named(), Path(out), found.format, dtype or dtype_of(updates.adapter), found.metadata, found.other
        )
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
    adapter = settle_dora(adapter, conversion.to, format, target, base, found.notes)
    groups, foreign = _groups(adapter, conversion, format, target, found)
    ranks = _shared(groups, conversion, format, found.itemsize)
    for number, group in enumerate(groups):
        with blame(module=group.name.full):
            keep = conversion.keep if ranks is None else Keep(rank=ranks[number])
            found.modules.append(_made(group, updates.kinds, conversion, format, keep, found.itemsize))
        if progress:
            progress(number + 1, len(groups))
    _keep_others(adapter, foreign, format, found)
    found.metadata = _metadata(adapter, conversion, found)
    if conversion.to == "lokr" and 1 in conversion.factors and len(conversion.factors) == 1:
        found.notes.append("factor 1: W1 is the number 1, which makes a LoRA or a difference of the same size")
    return found


def format_of(adapter: Adapter) -> str:
    """The format whose names a file has, "kohya" if they are like none."""
    first = next(iter(adapter.names.values()), ModuleName("", ""))
    prefix = first.full[: len(first.full) - len(first.path)]
    starts = {"lora_": "kohya", "lycoris_": "lycoris", "diffusion_model.": "comfyui", "base_model.": "peft"}
    starts |= {"unet.": "diffusers", "transformer.": "diffusers", "text_encoder": "diffusers"}
    return next((format for start, format in starts.items() if prefix.startswith(start)), "kohya")


def dtype_of(adapter: Adapter) -> torch.dtype:
    """The dtype of the most tensors of a file."""
    dtypes = [t.dtype for weights in adapter.values() for f in (weights.w1, weights.w2) for t in f.tensors.values()]
    dtypes = [dtype for dtype in dtypes if dtype.is_floating_point]
    return max(dict.fromkeys(dtypes), key=dtypes.count) if dtypes else torch.float32


def _groups(
    adapter: Adapter, conversion: Conversion, format: str, target: Target | None, found: Converted
) -> tuple[list[Regrouped], dict[str, str]]:
    """The modules of the new file with the rows that they are made of, and new names of the foreign modules."""
    if conversion.names is not None and target is None:
        target = _supposed_target(adapter, found.notes)
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


def _exact(group: Regrouped) -> LoKrWeights:
    """All rows of a module as one update, exactly; a LoKr of the same factors if they are its rows."""
    return group.single or joined(group.pieces, group.shape) or stacked(group.pieces, group.shape)


def _shared(groups: list[Regrouped], conversion: Conversion, format: str, itemsize: int) -> list[int] | None:
    """The rank of each module if all together are to have a size, else None."""
    if conversion.keep.size is None:
        return None
    if conversion.to != "lora":
        raise LoKrValueError("Only ranks of LoRA can be shared by a size", expected="--to lora", found=conversion.to)
    spectra = [KronSvd.of(_exact(group)).values for group in groups]
    costs = [(group.shape[0] + prod(group.shape[1:])) * itemsize for group in groups]
    # A file has three entries of its header for each module: a key and about 100 letters.
    header = sum(3 * (len(group.name.full) + 100) for group in groups)
    return shared_ranks(spectra, costs, conversion.keep.size - header)


def _made(
    group: Regrouped, kinds: Mapping[str, str], conversion: Conversion, format: str, keep: Keep, itemsize: int
) -> Made:
    form = ""
    if conversion.to == "lokr":
        single = group.single or joined(group.pieces, group.shape)
        if single and all(kinds[source] == LOKR for source in group.sources):
            found, note, form = Nearest(single, 1.0), "", LOKR
        else:
            found, note = _as_lokr(single, conversion) if single else _inexact(group, conversion, itemsize)
    else:
        exact, note = _exact(group), ""
        if conversion.to == "full":
            found = Nearest(exact if form_of(exact) == FULL else full(exact.delta(), exact.dora_scale), 1.0)
        else:
            found = as_lora(exact, keep, format in UP_DOWN and conversion.keep == Keep())
    squared = sum((weights.scaling * kron_norm(weights.w1, weights.w2)) ** 2 for _, weights in group.pieces)
    form = form or form_of(found.weights)
    return Made(group.name, found.weights, found.energy, squared, tuple(group.sources), form, note)


def as_lora(weights: LoKrWeights, keep: Keep, or_full: bool = False) -> Nearest:
    """The best LoRA of an update; or_full: a full difference instead where that has fewer numbers."""
    if form_of(weights) == LORA and keep.rank is None and keep.energy is None and keep.error is None:
        return Nearest(lora(*lora_halves(weights), weights.dora_scale), 1.0)
    found = KronSvd.of(weights)
    # DoRA's norm is that of the whole update.
    rank = keep.rank_for(found.values) if weights.dora_scale is None else found.rank
    out, columns = weights.shape[0], prod(weights.shape[1:])
    if or_full and rank * (out + columns) > out * columns:
        return Nearest(full(weights.delta(), weights.dora_scale), 1.0)
    up, down = found.truncated(rank)
    squares = found.values.square()
    total = float(squares.sum())
    energy = float(squares[:rank].sum()) / total if total else 1.0
    return Nearest(lora(up, down, weights.dora_scale), 1.0 if energy > _EXACT else energy)


def _as_lokr(weights: LoKrWeights, conversion: Conversion) -> tuple[Nearest, str]:
    """A LoKr as it is; a LoRA or a difference as the nearest LoKr, itself if that keeps too little."""
    if form_of(weights) == LOKR or weights.dora_scale is not None:
        return Nearest(weights, 1.0), ""
    found = nearest_lokr(weights, conversion)
    if found.energy < conversion.min_energy:
        return Nearest(weights, 1.0), f"the nearest LoKr keeps {found.energy:.1%}: left as {form_of(weights)}"
    return found, ""


def nearest_lokr(weights: LoKrWeights, conversion: Conversion) -> Nearest:
    """The LoKr nearest to an update that is none; a LoRA's product is not built."""
    blocks = LowRank(*lora_halves(weights)) if form_of(weights) == LORA else Dense(weights.delta())
    asked = conversion.keep if conversion.keep != Keep() else None
    return best_product(blocks, conversion.factors, asked)


def _inexact(group: Regrouped, conversion: Conversion, itemsize: int) -> tuple[Nearest, str]:
    """Rows that are no LoKr of the same factors, as ``conversion.inexact`` says."""
    exact = stacked(group.pieces, group.shape)
    note = "its rows do not fall between blocks of W1"
    if conversion.inexact == AS_FULL:
        return Nearest(full(exact.delta(), exact.dora_scale), 1.0), note
    if conversion.inexact == AS_LORA:
        return as_lora(exact, conversion.keep), note
    if conversion.inexact == NEAREST:
        return nearest_lokr(replace(exact, dora_scale=None), conversion), note
    before = sum(weights.numel for _, weights in group.pieces) * itemsize
    ways = {AS_FULL: (prod(group.shape) * itemsize, 1.0)}
    for way, found in ((AS_LORA, as_lora(exact, conversion.keep)), (NEAREST, nearest_lokr(exact, conversion))):
        ways[way] = found.weights.numel * itemsize, found.energy
    raise LoKrValueError(
        "Under these names the module is not a LoKr of the same factors",
        module=group.name.full,
        expected=f"rows between blocks of W1, and {human_bytes(before)}",
        found=", ".join(f"{way}: {human_bytes(size)}, {energy:.1%}" for way, (size, energy) in ways.items()),
        hint="choose one of these with --inexact, or convert to lora or to names that keep the module whole",
    )


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
    gone = ("ss_network_", "lora_adapter_metadata", "lycoris_config", "lokr_config")
    metadata = {key: text for key, text in adapter.metadata.items() if not key.startswith(gone)}
    ranks = [made.rank for made in found.modules if made.rank]
    if found.format in UP_DOWN:
        rank = max(set(ranks), key=ranks.count) if ranks else 1
        metadata["ss_network_module"] = _SAMPLES[conversion.to]
        metadata |= {"ss_network_dim": str(rank), "ss_network_alpha": str(rank)}
        if conversion.to != "lora":
            metadata["ss_network_args"] = json.dumps({"algo": conversion.to})
    return {**metadata, CONVERSION_KEY: note_of(adapter, conversion.to, found.energy)}


def note_of(adapter: Adapter, to: str, energy: float) -> str:
    """The value of ``CONVERSION_KEY``."""
    note = {"from": adapter.path.name if adapter.path else None, "to": to, "energy": round(energy, 6)}
    return json.dumps({**note, "version": version()})
