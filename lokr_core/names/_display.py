"""Names for a person to read: the architecture a file was trained for, and the original names of its modules.

`_translate` finds both exactly, from a model. Here only the file is at hand, and the result is good enough to show but
not to apply an update by.
"""

from __future__ import annotations

import re
from functools import cache

from ._registry import ARCHITECTURES
from ._words import mask_numbers

_UNET_STEP = re.compile(
    r"(?P<part>down_blocks|up_blocks|mid_block)_(?:(?P<level>\d+)_)?"
    r"(?P<kind>resnets|attentions|downsamplers|upsamplers)_(?P<place>\d+)_(?P<rest>.*)"
)
_STEPS = 3  # per level of a UNet: two blocks and the sampler on the way down, three blocks on the way up


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
