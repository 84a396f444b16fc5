"""PEFT's facts: its configuration, its names and its layout."""

from ._config import LoKrConfig
from ._reader import CONFIG_NAME, METADATA_KEY, PeftConfig, as_trained, configs_in_metadata, parse_config, target_notes

__all__ = [
    "CONFIG_NAME",
    "LoKrConfig",
    "METADATA_KEY",
    "PeftConfig",
    "as_trained",
    "configs_in_metadata",
    "parse_config",
    "target_notes",
]
