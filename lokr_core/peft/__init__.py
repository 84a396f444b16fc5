"""PEFT's facts: its configuration, its names, its layout and its product."""

from ._config import LoKrConfig
from ._defaults import CLASSIFIERS, HEADS_BY_TASK, TARGETS_BY_MODEL_TYPE
from ._folder import read_weights, write_entries
from ._layout import (
    CONFIG_NAME,
    METADATA_KEY,
    PREFIX,
    WEIGHTS_NAME,
    is_whole,
    matching_keys,
    names_module,
    whole_rank,
)
from ._product import as_trained, is_reversed, reversed_kron
from ._stored import StoredConfig, stored_config, stored_configs

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
    "as_trained",
    "is_reversed",
    "is_whole",
    "matching_keys",
    "names_module",
    "read_weights",
    "reversed_kron",
    "stored_config",
    "stored_configs",
    "whole_rank",
    "write_entries",
]
