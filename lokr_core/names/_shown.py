"""The original name behind a diffusers name of a file, where there is no model at hand to look it up in.

With a model, ``matching`` does this exactly. Here the table of the architecture (or, for UNets, the count of its steps)
has to do, and what comes out is good for showing a person where a module sits, not for applying anything.
"""

from __future__ import annotations

import re
from functools import cache

from ._registry import ARCHITECTURES

_NUMBER = re.compile(r"(?<=_)\d+(?=_|$)")
_VARIABLE = re.compile(r"(?<=_)\{\w+\}(?=_|$)")
_UNET = re.compile(
    r"(?P<part>down_blocks|up_blocks|mid_block)_(?:(?P<level>\d+)_)?"
    r"(?P<kind>resnets|attentions|downsamplers|upsamplers)_(?P<place>\d+)_(?P<rest>.*)"
)
_STEPS = 3  # of a UNet's level: two blocks and the sampler on the way down, three blocks on the way up


def original_name(path: str, architecture: str | None) -> str:
    """``path``, dotted or flattened, in the original's names, flattened; itself where no table knows another.

    architecture: the title that ``guess`` gave.

    >>> original_name("down_blocks.1.attentions.0.proj_in", "SDXL")
    'input_blocks_4_1_proj_in'
    >>> original_name("transformer_blocks_7_attn_to_out_0", "Flux.1")
    'double_blocks_7_img_attn_proj'
    """
    flat = path.replace(".", "_")
    step = _UNET.fullmatch(flat)
    if step:
        return f"{_unet_step(step)}_{step['rest']}"
    original = _names(architecture).get(_NUMBER.sub("#", flat))
    if original is None:
        return flat
    # A block's number is the first of a name on both sides; the others are parts of the pattern.
    number = _NUMBER.search(flat)
    return _VARIABLE.sub(number.group() if number else "0", original)


def _unet_step(step: re.Match) -> str:
    """From diffusers' count by level and kind to the original's count from the input (see ``unet``)."""
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
def _names(architecture: str | None) -> dict[str, str]:
    """Diffusers' names, flattened and their numbers masked -> the original name, flattened, of that architecture."""
    found = {}
    for table in ARCHITECTURES:
        if table.title == architecture:
            for rule in table.rules:
                for name in rule.diffusers:
                    masked = _NUMBER.sub("#", _VARIABLE.sub("#", name.replace(".", "_")))
                    found.setdefault(masked, rule.original.replace(".", "_"))
    return found
