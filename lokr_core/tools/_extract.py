"""An adapter out of two checkpoints: for each layer the LoKr nearest to what was trained, streamed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..adapter import ModuleName
from ..checkpoints import Checkpoint, Held, HeldCheckpoint, Stored
from ..conversion import (
    LOKR,
    LORA,
    Dense,
    Keep,
    Nearest,
    best_product,
    candidates,
    fewest,
    fit_dora,
    full,
    nearest_product,
)
from ..display import Progress
from ..errors import LoKrFileError, LoKrShapeError, LoKrValueError
from ..kronecker import is_finite
from ..matching import Target
from ..names import Slot
from ..saving import Book, NamedModule, named, save_named
from ._converted import Converted, Made
from ._make import as_lora

AS_LORA, LEAVE = "lora", "leave out"
OTHERWISE = (AS_LORA, LEAVE)
"""What becomes of a layer whose nearest LoKr keeps less than ``min_energy``."""
EXTRACT_FACTORS = (-1, 4, 8, 16)

Source = Checkpoint | HeldCheckpoint
Weight = Stored | Held

_SCALES = ("scale_weight", "weight_scale", "weight_scale_2", "absmax")
_VAE = re.compile(r"(first_stage_model|vae)\.")
_EMBEDDING = re.compile(r"(token|position|word)_embeddings?$|embed_tokens$|(^|\.)shared$|pos_embed$")
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Extraction:
    """How to extract an adapter.

    names: a key of ``SPELLINGS`` that has no configuration: "kohya", "lycoris", "comfyui", "original"
    factors: of W1, the one with the fewest numbers that keeps 0.99 of the best energy is taken
    keep: how much of W2, or of a LoRA, is kept; None: W2 is whole
    dora: whether to look for DoRA on the output axis
    min_energy, otherwise: a layer of which less is kept becomes a LoRA, or is left out
    differences: whether biases, norms and embeddings are kept as differences
    """

    names: str = "kohya"
    factors: Sequence[int] = EXTRACT_FACTORS
    keep: Keep | None = None
    dora: bool = False
    min_energy: float = 0.0
    otherwise: str = AS_LORA
    differences: bool = False

    def __post_init__(self):
        if self.otherwise not in OTHERWISE:
            raise LoKrValueError("Unknown value", expected=", ".join(OTHERWISE), found=repr(self.otherwise))
        if not 0 <= self.min_energy <= 1:
            raise LoKrValueError("min_energy is out of range", expected="0 to 1", found=self.min_energy)
        if self.keep is not None and self.keep.size is not None:
            raise LoKrValueError("An extraction has no size", expected="rank, energy or error", found=self.keep.size)
        bad = [factor for factor in self.factors if factor < 1 and factor != -1]
        if bad or not self.factors:
            raise LoKrValueError("A factor is out of range", expected="-1 or at least 1", found=bad or "none")


def extract(
    base: str | os.PathLike | HeldCheckpoint,
    tuned: str | os.PathLike | HeldCheckpoint,
    out: str | os.PathLike,
    extraction: Extraction | None = None,
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> Converted:
    """Write an adapter that turns the checkpoint ``base`` into ``tuned`` as nearly as it can.

    base, tuned: files, shards, folders or models in memory, of the same names and shapes; read two tensors at a time
    out: a ``.safetensors`` file, written atomically; dtype: of its tensors, None for fp32
    progress: called with (bytes read, total bytes)

    Returns what was made of each layer and the energy that it keeps. Raises LoKrFileError if the checkpoints are of
    different models or equal, LoKrValueError if a tensor holds NaN or Inf or is quantized.
    """
    extraction = extraction or Extraction()
    olds, news = (x if isinstance(x, HeldCheckpoint) else Checkpoint.of(x) for x in (base, tuned))
    pairs = _pairs(olds, news)
    book = Book.of(Target(olds.shapes).models, extraction.names)
    found = Converted([], extraction.names, itemsize=(dtype or torch.float32).itemsize)
    found.before = news.size
    found.notes += _unmatched(olds, news)
    total, done = sum(old.info.stop - old.info.start for old, _ in pairs.values()), 0
    changed = 0
    for name, (old, new) in pairs.items():
        changed += _extract_one(name, old, new, extraction, book, found)
        done += old.info.stop - old.info.start
        if progress:
            progress(done, total)
    if not changed:
        raise LoKrFileError(
            "The checkpoints are equal: there is nothing to extract",
            file=news.path,
            expected=f"weights that differ from those of {olds.path.name}",
            hint="name the base model first and the fine-tuned one second",
        )
    if not found.modules and not found.other:
        raise LoKrFileError(
            "No layer that an adapter can hold has changed",
            file=news.path,
            found="; ".join(dict.fromkeys(found.left_out.values())),
            hint="keep biases, norms and embeddings as differences: --differences",
        )
    if extraction.keep is not None:
        found.note_rank_above(extraction.keep)
    found.metadata = {"ss_network_module": "lycoris.kohya", "ss_network_args": '{"algo": "lokr"}'}
    save_named(named(found.modules), Path(out), extraction.names, dtype, found.metadata, found.other)
    return found


def _pairs(olds: Source, news: Source) -> dict[str, tuple[Weight, Weight]]:
    """The tensors of both checkpoints, by name. Raises LoKrFileError or LoKrShapeError if they are of other models."""
    old, new = olds.tensors, news.tensors
    common = [name for name in old if name in new]
    if 2 * len(common) < max(1, min(len(old), len(new))):
        raise LoKrFileError(
            "The checkpoints are of different models, or have different names",
            file=news.path,
            expected=f"the names of {olds.path.name}, such as {next(iter(old), 'none')}",
            found=f"{len(common)} of {len(new)} names in common, and {next(iter(new), 'none')}",
            hint="give both in one layout: two single files, or two diffusers folders",
        )
    for name in common:
        if old[name].info.shape != new[name].info.shape:
            raise LoKrShapeError(
                "The checkpoints are of different architectures",
                file=news.path,
                module=name,
                expected=old[name].info.shape,
                found=new[name].info.shape,
                hint="give the base model that the checkpoint was trained on",
            )
    return {name: (old[name], new[name]) for name in common}


def _unmatched(olds: Source, news: Source) -> list[str]:
    old, new = olds.tensors.keys(), news.tensors.keys()
    missing, added = [n for n in old if n not in new], [n for n in new if n not in old]
    notes = []
    if missing:
        notes.append(f"{len(missing)} tensors are missing in the tuned checkpoint, such as {missing[0]}")
    if added:
        notes.append(f"{len(added)} tensors are in the tuned checkpoint alone, such as {added[0]}")
    return notes


def _extract_one(name: str, old: Weight, new: Weight, extraction: Extraction, book: Book, found: Converted) -> bool:
    """Add what became of one tensor to ``found``. Returns whether it has changed."""
    if old.info.dtype not in _FLOATS or new.info.dtype not in _FLOATS:
        if old.info.dtype.itemsize == 1 and old.info.dtype.is_floating_point or _scaled(old):
            raise LoKrValueError(
                "A weight is quantized",
                file=old.path,
                module=name,
                expected="fp32, fp16 or bf16",
                found=str(old.info.dtype),
                hint="give the unquantized checkpoints",
            )
        return False
    w, t = old.read(), new.read()
    for tensor, stored in ((w, old), (t, new)):
        if not is_finite(tensor):
            raise LoKrValueError(
                "A tensor holds NaN or Inf", file=stored.path, module=name, expected="finite numbers",
                hint="get the file again, or an earlier checkpoint of the training",
            )  # fmt: skip
    if torch.equal(w.to(t.dtype), t) or torch.equal(w, t.to(w.dtype)):
        return False
    module, _, parameter = name.rpartition(".")
    named = book.names.get((Slot(module, parameter=parameter),)) or book.names.get((Slot(module),))
    if _VAE.match(name) or named is None:
        found.left_out[name] = "part of the VAE" if _VAE.match(name) else "no adapter has a name for it"
    elif w.ndim < 2 or parameter != "weight" or _EMBEDDING.search(module):
        _keep_difference(name, w, t, named, extraction, found)
    else:
        _extract_layer(module, w, t, named, extraction, book, found)
    return True


def _scaled(stored: Weight) -> bool:
    return any(map(stored.beside, _SCALES))


def _keep_difference(
    name: str, w: Tensor, t: Tensor, named: ModuleName, extraction: Extraction, found: Converted
) -> None:
    """A bias, a norm or an embedding: its difference, or counted as left out."""
    if not extraction.differences:
        found.left_out[name] = "biases, norms and embeddings (--differences keeps them)"
        return
    ends = "diff_b" if name.endswith(".bias") else "diff" if w.ndim > 1 else "w_norm"
    found.other[f"{named.full}.{ends}"] = t.float() - w.float()


def _extract_layer(
    module: str, w: Tensor, t: Tensor, named: ModuleName, extraction: Extraction, book: Book, found: Converted
) -> None:
    """A layer as one module, or as the parts of a fused weight where those fit better."""
    whole = [NamedModule(named, (0, w.shape[0]))]
    parts = book.parts(module, w.shape[0])
    made = [list(_modules(group, w, t, extraction)) for group in (whole, parts) if group]
    kept = [_kept(each) for each in made]
    best = max(kept)
    near = [each for each, energy in zip(made, kept, strict=True) if energy >= 0.99 * best]
    for each in min(near, key=lambda modules: sum(m.numel for m in modules)):
        if each.energy >= extraction.min_energy:
            found.modules.append(each)
        elif extraction.otherwise == LEAVE:
            found.left_out[each.name.full] = f"the nearest LoKr keeps under {extraction.min_energy:.0%}"
        else:
            rows = next(part.rows for part in (*whole, *parts) if part.name == each.name)
            delta = t.narrow(0, *rows).float() - w.narrow(0, *rows).float()
            made_lora = as_lora(full(delta), extraction.keep or Keep())
            found.modules.append(replace(each, weights=made_lora.weights, energy=made_lora.energy, form=LORA))


def _kept(modules: Sequence[Made]) -> float:
    total = sum(made.squared for made in modules)
    return sum(made.squared * made.energy for made in modules) / total if total else 1.0


def _modules(parts: Sequence[NamedModule], w: Tensor, t: Tensor, extraction: Extraction) -> Iterator[Made]:
    """The nearest updates of rows of a weight; those that did not change are left out."""
    for part in parts:
        old, new = w.narrow(0, *part.rows), t.narrow(0, *part.rows)
        delta = _difference(old, new)
        squared = float(torch.linalg.vector_norm(delta, dtype=torch.float64)) ** 2
        if not squared:
            continue
        found = _with_dora(old, new, extraction) if extraction.dora else None
        found = found or best_product(Dense(delta), extraction.factors, extraction.keep)
        yield Made(part.name, found.weights, found.energy, squared, (part.name.full,), LOKR)


def _difference(old: Tensor, new: Tensor) -> Tensor:
    wide = torch.float64 if torch.float64 in (old.dtype, new.dtype) else torch.float32
    return new.to(wide) - old.to(wide)


def _with_dora(old: Tensor, new: Tensor, extraction: Extraction) -> Nearest:
    """The best of the DoRA fits by each factor."""
    found = []
    for l, m in candidates(tuple(old.shape), extraction.factors):
        nearest = partial(nearest_product, l=l, m=m, keep=extraction.keep)
        found.append(fit_dora(old, new, nearest).nearest)
    return fewest(found)
