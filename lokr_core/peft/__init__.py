"""PEFT's facts: its configuration, its names, and its layout."""

from ..modules import PREFIX
from ._config import LoKrConfig, write_entries
from ._layout import (
    CONFIG_NAME,
    METADATA_KEY,
    WEIGHTS_NAME,
    is_reversed,
    is_whole,
    matching_keys,
    names_module,
    whole_rank,
)
from ._magnitude import MAGNITUDE, magnitude_of
from ._stored import StoredConfig, stored_configs

__all__ = [
    "CONFIG_NAME",
    "LoKrConfig",
    "MAGNITUDE",
    "METADATA_KEY",
    "PREFIX",
    "StoredConfig",
    "WEIGHTS_NAME",
    "is_reversed",
    "is_whole",
    "magnitude_of",
    "matching_keys",
    "names_module",
    "stored_configs",
    "whole_rank",
    "write_entries",
]
