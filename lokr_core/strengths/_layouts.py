"""The blocks of known architectures, for an editor of their strengths: groups in the order in which a model runs them.

``_blocks.block_groups`` reads the blocks of a loaded model off its names; these tables show them before it is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import LoKrValueError
from ._blocks import OTHER, PRESETS, BlockStrengths, short_name

# List of blocks -> its label in the editor; the label of any other list is its name.
_LABELS = {
    "double_blocks": "Double blocks (image and text apart)",
    "single_blocks": "Single blocks (image and text together)",
    "double_layers": "Double layers (image and text apart)",
    "single_layers": "Single layers (image and text together)",
    "double_stream_blocks": "Double blocks (image and text apart)",
    "single_stream_blocks": "Single blocks (image and text together)",
    "text_transformer_blocks": "Text blocks",
    "visual_transformer_blocks": "Visual blocks",
}

_UNET = (("input_blocks", 12), ("middle_block", 3), ("output_blocks", 12))
_FLUX = (("double_blocks", 19), ("single_blocks", 38))
_REFINERS = (("noise_refiner", 2), ("context_refiner", 2))

# Architecture's title -> (name of a list of blocks, number of blocks). Of an architecture's sizes, the one that most
# adapters are for.
_LISTS: dict[str, tuple[tuple[str, int], ...]] = {
    "Stable Diffusion 1.x": _UNET,
    "Stable Diffusion 2.x": _UNET,
    "SDXL": (("input_blocks", 9), ("middle_block", 3), ("output_blocks", 9)),
    "SDXL refiner": _UNET,
    "Stable Diffusion 3 and 3.5": (("joint_blocks", 38),),
    "Flux.1": _FLUX,
    "Flux.2": (("double_blocks", 8), ("single_blocks", 48)),
    "Chroma": _FLUX,
    "AuraFlow": (("double_layers", 4), ("single_layers", 32)),
    "PixArt Alpha and Sigma": (("blocks", 28),),
    "Qwen-Image and Qwen-Image-Edit": (("transformer_blocks", 60),),
    "HiDream-I1": (("double_stream_blocks", 16), ("single_stream_blocks", 32)),
    "Z-Image": (*_REFINERS, ("layers", 30)),
    "Lumina 2": (*_REFINERS, ("layers", 26)),
    "HunyuanVideo": (("double_blocks", 20), ("single_blocks", 40)),
    "HunyuanVideo 1.5": (("double_blocks", 54),),
    "HunyuanImage 2.1": (("double_blocks", 20), ("single_blocks", 40)),
    "Wan 2.1 and 2.2": (("blocks", 40),),
    "LTX-Video": (("transformer_blocks", 28),),
    "LTX-2": (("transformer_blocks", 48),),
    "CogVideoX": (("blocks", 30),),
    "Cosmos-Predict2": (("blocks", 28),),
    "Anima": (("blocks", 28),),
    "Kandinsky 5": (("text_transformer_blocks", 2), ("visual_transformer_blocks", 32)),
}


@dataclass(frozen=True)
class Group:
    """A list of blocks.

    name: its short name ("IN")
    list: its name in the model ("input_blocks"); "" for what is around the blocks
    label: its name in the editor
    blocks: the names by which strengths refer to its blocks ("IN0", "IN1", ...)
    """

    name: str
    list: str
    label: str
    blocks: tuple[str, ...]


@dataclass(frozen=True)
class Preset:
    """Named strengths of blocks; ``BlockStrengths.parse`` reads ``text``."""

    name: str
    text: str


@dataclass(frozen=True)
class BlockLayout:
    """The groups of an architecture in the order in which the model runs them, then what is around the blocks; and the
    presets that fit."""

    architecture: str | None
    groups: tuple[Group, ...]
    presets: tuple[Preset, ...]


def block_layout_of(architecture: str | None, seen: Iterable[tuple[str, str]] = ()) -> BlockLayout:
    """The layout of an architecture, extended by the blocks of a file.

    architecture: a title; None or a title without a table starts from no groups
    seen: (group, block) of a file's modules, such as ("IN", "IN4"): a file may have more blocks than the table, which
        has one size of each architecture

    >>> [group.blocks for group in block_layout_of(None, [("DOUBLE", "DOUBLE1")]).groups]
    [('DOUBLE0', 'DOUBLE1'), ('OTHER',)]
    """
    groups = {short_name(name): (name, count) for name, count in _LISTS.get(architecture or "", ())}
    for group, block in seen:
        number = re.fullmatch(rf"{re.escape(group)} ?(\d+)", block)
        if number and not re.fullmatch(r"TE\d?", group):
            name, count = groups.get(group, (_list_of(group), 0))
            groups[group] = name, max(count, int(number.group(1)) + 1)
    listed = (_group(short, name, count) for short, (name, count) in groups.items())
    around = Group(OTHER, "", "Around the blocks", (OTHER,))
    return BlockLayout(architecture, (*listed, around), tuple(_presets(architecture, groups)))


def _group(short: str, name: str, count: int) -> Group:
    label = _LABELS.get(name, name.replace("_", " ").capitalize())
    return Group(short, name, label, tuple(f"{short}{number}" for number in range(count)))


def _list_of(short: str) -> str:
    """The name of the list that most likely has that short name."""
    known = (name for lists in _LISTS.values() for name, _ in lists)
    return next((name for name in known if short_name(name) == short), short.lower())


def _presets(architecture: str | None, groups: Mapping[str, tuple[str, int]]) -> Iterable[Preset]:
    """The presets whose blocks all exist, except those for another architecture."""
    modules = [f"{name}.{n}.{step}.layer" for name, count in groups.values() for n in range(count) for step in (0, 1)]
    for name, text in PRESETS.items():
        intended = name.partition(":")[0]
        if intended in _LISTS and intended != architecture:
            continue
        try:
            BlockStrengths.parse(text).over(modules)
        except LoKrValueError:
            continue
        yield Preset(name, text)


BLOCK_LAYOUTS: dict[str, BlockLayout] = {architecture: block_layout_of(architecture) for architecture in _LISTS}
