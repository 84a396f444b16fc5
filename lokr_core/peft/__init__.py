"""PEFT's facts: its configuration, its names, and its layout."""

from ._config import LoKrConfig, write_entries
from ._defaults import CLASSIFIERS, HEADS_BY_TASK, TARGETS_BY_MODEL_TYPE
from ._folder import read_weights
from ._layout import (
    CONFIG_NAME,
    METADATA_KEY,
    PREFIX,
    WEIGHTS_NAME,
    is_reversed,
    is_whole,
    matching_keys,
    names_module,
    whole_rank,
)
from ._stored import StoredConfig, stored_configs

__all__ = [
    "CLASSIFIERS",
    "CONFIG_NAME",
    "HEADS_BY_TASK",
    "LoKrConfig",
    "METADATA_KEY",
    "PREFIX",
    "StoredConfig",
    "TARGETS_BY_MODEL_TYPE",
    "WEIGHTS_NAME",
    "is_reversed",
    "is_whole",
    "matching_keys",
    "names_module",
    "read_weights",
    "stored_configs",
    "whole_rank",
    "write_entries",
]
