"""The blocks of known architectures, as a person sets their strengths: groups in the order in which a model runs them.

A model that is loaded tells its blocks itself (``blocks.block_groups``); this is for showing them before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import LoKrValueError
from ._blocks import OTHER, PRESETS, BlockStrengths, short_name

# Words of a list's name -> what a person reads.
_WORDS = {
    "input_blocks": "Input blocks",
    "middle_block": "Middle block",
    "output_blocks": "Output blocks",
    "double_blocks": "Double blocks (image and text apart)",
    "single_blocks": "Single blocks (image and text together)",
    "joint_blocks": "Joint blocks",
    "transformer_blocks": "Transformer blocks",
    "noise_refiner": "Noise refiner",
    "context_refiner": "Context refiner",
    "layers": "Layers",
    "blocks": "Blocks",
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

# Architecture's title -> (list of blocks by its name in the model, how many). Of architectures that come in several
# sizes, the one that most adapters are for.
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
    """A list of blocks: its short name ("IN"), its name in the model, what a person reads, and the name of each block
    as its strength is written ("IN0", "IN1", ...)."""

    name: str
    list: str
    label: str
    blocks: tuple[str, ...]


@dataclass(frozen=True)
class Preset:
    """Strengths of blocks under a name; ``text`` is what ``BlockStrengths.parse`` reads."""

    name: str
    text: str


@dataclass(frozen=True)
class Layout:
    """Groups in the order in which the model runs them, then what is around the blocks; and the presets that fit.

    ``known``: whether the architecture is one of ``LAYOUTS``; else the groups are those of a file.
    """

    architecture: str | None
    known: bool
    groups: tuple[Group, ...]
    presets: tuple[Preset, ...]


def layout_of(architecture: str | None, seen: Iterable[tuple[str, str]] = ()) -> Layout:
    """The layout of the architecture with that title, and of the ("IN", "IN4") group and block pairs seen in a file.

    A file may have more blocks than the table (the table has one size of each architecture), or be of an architecture
    that is not in it.
    """
    groups = {short_name(name): (name, count) for name, count in _LISTS.get(architecture or "", ())}
    for group, block in seen:
        number = re.fullmatch(rf"{re.escape(group)} ?(\d+)", block)
        if number and not re.fullmatch(r"TE\d?", group):
            name, count = groups.get(group, (_list_of(group), 0))
            groups[group] = name, max(count, int(number.group(1)) + 1)
    made = tuple(
        Group(short, name, _WORDS.get(name, short.replace("_", " ").capitalize()), _blocks(short, count))
        for short, (name, count) in groups.items()
    )
    around = Group(OTHER, "", "Around the blocks", (OTHER,))
    return Layout(architecture, architecture in _LISTS, (*made, around), tuple(_presets(architecture, groups)))


def _list_of(short: str) -> str:
    """The list that a short name most likely stands for."""
    return next((name for name in _WORDS if short_name(name) == short), short.lower())


def _blocks(short: str, count: int) -> tuple[str, ...]:
    return tuple(f"{short}{number}" for number in range(count))


def _presets(architecture: str | None, groups: Mapping[str, tuple[str, int]]) -> Iterable[Preset]:
    """The presets whose blocks there are."""
    modules = [f"{name}.{n}.{step}.layer" for name, count in groups.values() for n in range(count) for step in (0, 1)]
    for name, text in PRESETS.items():
        made_for = name.partition(":")[0]
        if made_for in _LISTS and made_for != architecture:
            continue
        try:
            BlockStrengths.parse(text).over(modules)
        except LoKrValueError:
            continue
        yield Preset(name, text)


LAYOUTS: dict[str, Layout] = {architecture: layout_of(architecture) for architecture in _LISTS}
