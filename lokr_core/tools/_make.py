"""Each module of a converted file: a LoRA, a full difference or a LoKr made of the rows that it stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from ..adapter import LoKrWeights
from ..conversion import (
    FULL,
    LOKR,
    LORA,
    Dense,
    Keep,
    KronSvd,
    LowRank,
    Nearest,
    Regrouped,
    best_product,
    form_of,
    full,
    joined,
    lora,
    lora_halves,
    shared_ranks,
    stacked,
)
from ..display import human_bytes
from ..errors import LoKrValueError
from ..kronecker import kron_norm
from ..modules import SPELLINGS, UP_DOWN
from ._converted import Made, header_size

TO = ("lora", "full", "lokr")
REFUSE, AS_LORA, NEAREST, AS_FULL = "refuse", "lora", "nearest", "full"
INEXACT = (REFUSE, AS_LORA, NEAREST, AS_FULL)
"""What to do with rows of a LoKr that are no LoKr of the same factors."""
FACTORS = (-1, 2, 4, 8, 16, 32)
"""The factors that the nearest LoKr is looked for with."""

_EXACT = 1 - 1e-10  # energy: what is lost is rounding


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


def _exact(group: Regrouped) -> LoKrWeights:
    """All rows of a module as one update, exactly; a LoKr of the same factors if they are its rows."""
    return group.single or joined(group.pieces, group.shape) or stacked(group.pieces, group.shape)


def shared(groups: Sequence[Regrouped], conversion: Conversion, itemsize: int) -> list[int] | None:
    """The rank of each module if all together are LoRA of a size, else None."""
    if conversion.keep.size is None or conversion.to == "lokr":
        return None
    if conversion.to == "full":
        raise LoKrValueError("Full differences have no ranks", expected="a size of lora or lokr", found=conversion.to)
    spectra = [KronSvd.of(_exact(group)).values for group in groups]
    costs = [(group.shape[0] + prod(group.shape[1:])) * itemsize for group in groups]
    header = header_size([group.name.full for group in groups])
    return shared_ranks(spectra, costs, conversion.keep.size - header)


def made(
    group: Regrouped, kinds: Mapping[str, str], conversion: Conversion, format: str, keep: Keep, itemsize: int
) -> Made:
    """The module of the new file that ``group`` becomes. ``kinds``: what the modules of the file are."""
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
    asked = conversion.keep if conversion.keep != Keep() and conversion.keep.size is None else None
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
