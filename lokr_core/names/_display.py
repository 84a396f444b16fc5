"""Names for a person to read: the architecture a file was trained for, and the original names of its modules.

`_translate` finds both exactly, from a model. Here only the file is at hand, and the result is good enough to show but
not to apply an update by.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from ._registry import ARCHITECTURES
from ._words import DIFFUSERS, ORIGINAL, mask_numbers

# Stable Diffusion's UNets share their names; the width of their text encoder tells them apart.
# Columns of a cross attention's key or value -> title.
_UNETS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 1280: "SDXL refiner", 2048: "SDXL"}
_VIDEO = re.compile(
    r"(down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block)_.*_(temporal|time_stack)_"
)
_CROSS_ATTENTION = re.compile(
    r"(down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block)_.*attn2_to_[kv]"
)

_SHARE = 0.8
"""Share of a file's modules that an architecture's table must contain to be guessed."""

_COMMON = ("Flux.1", "Flux.2", "HunyuanVideo")
"""Of architectures that share names, those that most adapters are for."""

_UNET_STEP = re.compile(
    r"(?P<part>down_blocks|up_blocks|mid_block)_(?:(?P<level>\d+)_)?"
    r"(?P<kind>resnets|attentions|downsamplers|upsamplers)_(?P<place>\d+)_(?P<rest>.*)"
)
_STEPS = 3  # per level of a UNet: two blocks and the sampler on the way down, three blocks on the way up


def guesses(modules: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Titles of the architectures whose names fit best, the likeliest first; several if they share the file's names.

    modules: module paths (dotted or flattened) -> shapes of their updates

    Architectures with a single naming have nearly empty tables and are never guessed.

    >>> guesses({"double_blocks_0_img_mod_lin": (18432, 3072)})
    ['Flux.1', 'HunyuanVideo', 'HunyuanVideo 1.5', 'HunyuanImage 2.1', 'Ovis-Image', 'LongCat-Image']
    """
    flat = {path.replace(".", "_"): shape for path, shape in modules.items()}
    if any(map(_VIDEO.search, flat)):
        return ["Stable Video Diffusion"]
    for path, shape in flat.items():
        if _CROSS_ATTENTION.search(path):
            return [_UNETS[shape[1]]] if shape[1] in _UNETS else []
    masked = [mask_numbers(path)[0] for path in flat]
    known = [(sum(path in names for path in masked), title) for title, names in _all_names().items()]
    most = max((count for count, _ in known), default=0)
    if not masked or most < _SHARE * len(masked):
        return []
    tied = [title for count, title in known if count == most]
    return sorted(tied, key=lambda title: _COMMON.index(title) if title in _COMMON else len(_COMMON))


@cache
def _all_names() -> dict[str, frozenset[str]]:
    """Title -> every name of the architecture's table, flattened, numbers masked."""
    found = {}
    for architecture in ARCHITECTURES:
        names = {name for rule in architecture.rules for side in (ORIGINAL, DIFFUSERS) for name in rule.names(side)}
        found[architecture.title] = frozenset(mask_numbers(name.replace(".", "_"))[0] for name in names)
    return found


def original_name(path: str, architecture: str | None) -> str:
    """The original name of a module, flattened; the flattened `path` itself if no table has it.

    path: the module's path in either naming, dotted or flattened
    architecture: a title, as `guesses` returns it

    >>> original_name("down_blocks.1.attentions.0.proj_in", "SDXL")
    'input_blocks_4_1_proj_in'
    >>> original_name("transformer_blocks_7_attn_to_out_0", "Flux.1")
    'double_blocks_7_img_attn_proj'
    """
    flat = path.replace(".", "_")
    step = _UNET_STEP.fullmatch(flat)
    if step:
        return f"{_unet_step(step)}_{step['rest']}"
    masked, numbers = mask_numbers(flat)
    original = _original_names(architecture).get(masked)
    if original is None:
        return flat
    # The first number of a name is its block's on both sides; the others are literal in the pattern.
    return re.sub(r"\{\w+\}", numbers[0] if numbers else "0", original)


def _unet_step(step: re.Match) -> str:
    """From diffusers' count by level and kind to the original's count from the input (see `_unet`)."""
    level, place = int(step["level"] or 0), int(step["place"])
    second = 1 if step["kind"] == "attentions" else 0
    if step["part"] == "mid_block":
        return f"middle_block_{1 + 2 * place if second else 2 * place}"
    if step["part"] == "down_blocks":
        sampler = step["kind"] == "downsamplers"
        return f"input_blocks_{_STEPS * level + (_STEPS if sampler else 1 + place)}_{second}"
    if step["kind"] == "upsamplers":
        return f"output_blocks_{_STEPS * level + _STEPS - 1}_2"
    return f"output_blocks_{_STEPS * level + place}_{second}"


@cache
def _original_names(architecture: str | None) -> dict[str, str]:
    """Diffusers' names of an architecture, flattened and numbers masked -> the flattened original pattern."""
    found: dict[str, str] = {}
    for table in ARCHITECTURES:
        if table.title == architecture:
            for rule in table.rules:
                for name in rule.diffusers:
                    found.setdefault(mask_numbers(name.replace(".", "_"))[0], rule.original.replace(".", "_"))
    return found
