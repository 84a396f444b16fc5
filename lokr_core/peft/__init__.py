"""PEFT's facts: its configuration, its names, and its layout."""

from ..modules import PREFIX
from ._config import LoKrConfig, read_entries, write_entries
from ._layout import (
    CONFIG_NAME,
    METADATA_KEY,
    WEIGHTS_NAME,
    is_lokr,
    is_reversed,
    is_whole,
    matching_keys,
    names_module,
    whole_rank,
)
from ._magnitude import MAGNITUDE, magnitude_of

__all__ = [
    "CONFIG_NAME",
    "LoKrConfig",
    "MAGNITUDE",
    "METADATA_KEY",
    "PREFIX",
    "WEIGHTS_NAME",
    "is_lokr",
    "is_reversed",
    "is_whole",
    "magnitude_of",
    "matching_keys",
    "names_module",
    "read_entries",
    "whole_rank",
    "write_entries",
]
