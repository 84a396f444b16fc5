"""What a file means by its names: rows in another order than they say, weights that the target calls otherwise."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import torch

from ..adapter import Adapter, LoKrWeights
from ..kronecker import Factor
from ..modules import ModuleName

# OneTrainer trains diffusers' models. Its formats kohya, original and comfy rename a layer whose halves the authors
# have in reverse order, and swap those of a LoRA, of a difference and of ``dora_scale``, but not of a LoKr's factors
# (``modules/util/convert_util.py: chunk_swap``, May to August 2026).
_MARKS = ("ot_revision", "ot_branch")


def has_rows_of_diffusers(metadata: Mapping[str, str]) -> bool:
    """Whether a file's LoKr factors keep diffusers' order of rows under any name."""
    return any(key in metadata for key in _MARKS)


def in_named_order(adapter: Adapter, has_reversed_halves: Callable[[ModuleName], bool]) -> Adapter:
    """``adapter`` with the rows of every LoKr in the order that its name says; itself if they are.

    has_reversed_halves: a ``Target``'s

    The metadata of the adapter returned do not tell of the trainer's order any more, so that it may be saved.
    """
    if not has_rows_of_diffusers(adapter.metadata):
        return adapter
    lokr = {module: weights for module, weights in adapter.items() if not _is_one(weights.w1)}
    turned = {m: _halves_swapped(w) for m, w in lokr.items() if has_reversed_halves(adapter.names[m])}
    if not turned:
        return adapter
    metadata = {key: text for key, text in adapter.metadata.items() if key not in _MARKS}
    return replace(adapter, modules={**adapter.modules, **turned}, metadata=metadata)


def with_meant_names(
    adapter: Adapter, meant_by: Callable[[Collection[ModuleName]], Mapping[ModuleName, ModuleName]]
) -> Adapter:
    """``adapter`` with a target's names for modules whose own names the target has for other weights.

    meant_by: the ``Target``'s ``meant``
    """
    modules = {module: each.name for module, each in adapter.foreign.modules.items()} | dict(adapter.names)
    meant = meant_by(modules.values())
    if not meant:
        return adapter
    names = {module: meant.get(name, name) for module, name in modules.items()}
    return replace(adapter, names={m: names[m] for m in adapter.names}, foreign=adapter.foreign.named(names))


def _is_one(w1: Factor) -> bool:
    """Whether W1 is the number 1, as in a LoRA or a difference that is held as a LoKr."""
    return w1.whole is not None and w1.whole.numel() == 1 and float(w1.whole) == 1


def _halves_swapped(weights: LoKrWeights) -> LoKrWeights:
    """The update with the halves of its rows swapped as one update, ``dora_scale`` as it is."""
    l, half = weights.w1.shape[0], weights.shape[0] // 2
    if l % 2 == 0:
        return replace(weights, w1=weights.w1.roll_rows(l // 2))
    if l == 1:
        return replace(weights, w2=weights.w2.roll_rows(half))
    one = torch.ones(1, 1, dtype=weights.w1.dtype)
    return replace(weights, w1=Factor(one), w2=Factor(weights.delta().roll(half, 0)), scaling=1.0, alpha=None)
