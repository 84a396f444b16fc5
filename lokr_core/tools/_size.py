"""Ranks of W2 such that a file of LoKr has a size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import torch

from ..adapter import LoKrWeights
from ..conversion import LOKR, Keep, resized, shared_ranks, spectrum_of
from ..kronecker import kron_norm
from ._converted import Converted, header_size


def ranks_within(updates: Sequence[LoKrWeights], size: int, itemsize: int) -> list[int]:
    """A rank of each W2, such that all together keep the most energy and no more than ``size`` bytes with their W1.

    Raises LoKrValueError if one rank of each takes more.
    """
    spectra = [spectrum_of(w.w2) * abs(w.scaling) * kron_norm(w.w1, torch.ones(1, 1)) for w in updates]
    costs = [(w.w2.shape[0] + prod(w.w2.shape[1:])) * itemsize for w in updates]
    return shared_ranks(spectra, costs, size - sum(w.w1.numel for w in updates) * itemsize)


def fit_to_size(found: Converted, size: int) -> None:
    """Replace the LoKr modules of ``found`` by the nearest of ranks that make the file ``size`` bytes."""
    lokr = {number: made for number, made in enumerate(found.modules) if made.form == LOKR}
    rest = found.bytes - sum(made.numel for made in lokr.values()) * found.itemsize
    rest += header_size([made.name.full for made in found.modules])
    ranks = ranks_within([made.weights for made in lokr.values()], size - rest, found.itemsize)
    for (number, made), rank in zip(lokr.items(), ranks, strict=True):
        one = resized(made.weights, Keep(rank=rank))
        # What the nearest LoKr lost is orthogonal to what its W2 loses now.
        found.modules[number] = replace(made, weights=one.weights, energy=made.energy * one.energy)
