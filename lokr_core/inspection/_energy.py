"""Where in a model an adapter acts: ‖ΔW‖ per block and kind of layer, from its factors alone.

‖scaling · W1 ⊗ W2‖ = |scaling| · ‖W1‖ · ‖W2‖. The norm over several modules is the root of the sum of the squares.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

from ..adapter import ModuleName
from ..names import original_name
from ..strengths import OTHER, short_name

# (kind of layer, words in its name after the block's); the first row with a match counts.
KINDS: tuple[tuple[str, str], ...] = (
    ("cross-attention", r"attn2|cross_attn|crossattn|encoder_attn"),
    ("attention", r"attn|attention|qkv|to_[qkv]|to_out|[qkvo]_proj|out_proj"),
    ("feed-forward", r"ff|ffn|mlp|feed_forward|fc1|fc2|gate_proj|up_proj|down_proj|w[123]"),
    ("attention + feed-forward", r"linear1|linear2"),
    ("modulation", r"mod|modulation|adaln|norm|norm\d|emb_layers|time_emb_proj|scale_shift"),
    ("convolution", r"conv|conv\d|in_layers|out_layers|conv_shortcut|skip_connection|op|resnets"),
    ("projection", r"proj|proj_in|proj_out"),
)
_KINDS = [(kind, re.compile(rf"(?:^|_)(?:\w*_)?(?:{words})(?:_|$)")) for kind, words in KINDS]
OTHER_KIND = "other"

# The first numbered module of a flattened name that has modules inside: (list, number, rest).
_BLOCK = re.compile(r"([A-Za-z]\w*?)_(\d+)_(?:\d+_)*(?=[A-Za-z])(.*)")
_ORDER = ("IN", "MID", "OUT", "DOUBLE", "SINGLE")


class Place(NamedTuple):
    """Where a module is.

    group: a group of blocks ("IN")
    block: its block, as strengths refer to it ("IN4")
    kind: its kind of layer, one of ``KINDS``
    """

    group: str
    block: str
    kind: str


def place_of(name: ModuleName, architecture: str | None = None) -> Place:
    """The place of a file's module in a model.

    architecture: the model's title, as ``guesses`` returns it

    >>> place_of(ModuleName("x", "down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k", "unet"), "SDXL")
    Place(group='IN', block='IN4', kind='cross-attention')
    """
    encoder = name.component.upper() if name.component.startswith("te") else ""
    flat = name.path.replace(".", "_") if encoder else original_name(name.path, architecture)
    found = _BLOCK.match(flat)
    blocks, block, rest = found.groups() if found else (None, OTHER, flat)
    kind = next((kind for kind, pattern in _KINDS if pattern.search(rest.lower())), OTHER_KIND)
    if encoder:
        return Place(encoder, f"{encoder} {block}", kind)
    group = short_name(blocks) if blocks else OTHER
    return Place(group, f"{group}{block}" if blocks else OTHER, kind)


class Energy(NamedTuple):
    """One module's place and ‖ΔW‖; ``base``: ‖W‖ of its weight, None if unknown."""

    place: Place
    norm: float
    base: float | None = None


@dataclass(frozen=True)
class BlockEnergy:
    """‖ΔW‖ over the modules of a block, and their number; ‖ΔW‖ / ‖W‖ if the model is known."""

    block: str
    group: str
    energy: float
    modules: int


@dataclass(frozen=True)
class HeatMap:
    """‖ΔW‖ by block (rows) and kind of layer (columns).

    values: (rows, columns), None for cells without a module
    relative: the values are ‖ΔW‖ / ‖W‖
    """

    rows: list[str]
    columns: list[str]
    values: list[list[float | None]]
    blocks: list[BlockEnergy]
    relative: bool = False

    @classmethod
    def of(cls, energies: Iterable[Energy]) -> HeatMap:
        """The map of ``energies``; relative if all of them know their base."""
        energies = list(energies)
        relative = bool(energies) and all(energy.base is not None for energy in energies)
        cells: dict[tuple[str, str], list[Energy]] = {}
        rows: dict[str, list[Energy]] = {}
        for energy in energies:
            cells.setdefault((energy.place.block, energy.place.kind), []).append(energy)
            rows.setdefault(energy.place.block, []).append(energy)
        ordered = sorted(rows, key=lambda block: _order(rows[block][0].place))
        used = {energy.place.kind for energy in energies}
        columns = [kind for kind in (*(kind for kind, _ in KINDS), OTHER_KIND) if kind in used]
        norms = {cell: _norm(found, relative) for cell, found in cells.items()}
        values = [[norms.get((row, column)) for column in columns] for row in ordered]
        blocks = [
            BlockEnergy(row, rows[row][0].place.group, _norm(rows[row], relative), len(rows[row])) for row in ordered
        ]
        return cls(ordered, columns, values, blocks, relative)


def _norm(energies: Iterable[Energy], relative: bool) -> float:
    norm = sqrt(sum(energy.norm**2 for energy in energies))
    if not relative:
        return norm
    base = sqrt(sum((energy.base or 0.0) ** 2 for energy in energies))
    return norm / base if base else 0.0


def _order(place: Place) -> tuple:
    """Sort key of rows: the denoiser's blocks in a model's order, what is around them, then the text encoders."""
    encoder = re.fullmatch(r"TE\d*", place.group) is not None
    known = _ORDER.index(place.group) if place.group in _ORDER else len(_ORDER)
    number = re.search(r"\d+$", place.block)
    around = place.block.endswith(OTHER)
    return encoder, place.group == OTHER, known, place.group, around, int(number.group()) if number else 0
