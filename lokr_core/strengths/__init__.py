"""What people write: strengths of blocks, schedules, tags in a prompt, lists of strengths."""

from ._blocks import OTHER, PRESETS, BlockStrengths, short_name
from ._layouts import BLOCK_LAYOUTS, block_layout_of
from ._schedule import EASES, NOISE, STEPS, Schedule, keyframes, noise_percent, step_percent
from ._tags import Tag, read_tags, tag_of
from ._text import MAX_STRENGTHS, SLIDER_LIMIT, parse_strengths

__all__ = [
    "BLOCK_LAYOUTS",
    "BlockStrengths",
    "EASES",
    "MAX_STRENGTHS",
    "NOISE",
    "OTHER",
    "PRESETS",
    "SLIDER_LIMIT",
    "STEPS",
    "Schedule",
    "Tag",
    "block_layout_of",
    "keyframes",
    "noise_percent",
    "parse_strengths",
    "read_tags",
    "short_name",
    "step_percent",
    "tag_of",
]
