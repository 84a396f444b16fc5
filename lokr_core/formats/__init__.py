"""Files of every producer, read into an ``Adapter``."""

from ._base_model import BaseModel, base_model_of
from ._keys import SortedKeys, describe, split_keys
from ._naming import module_names, producer
from ._read import load_adapter, names_and_writer, parse_adapter
from ._scaling import scaling_of
from ._sources import config_beside

__all__ = [
    "BaseModel",
    "SortedKeys",
    "base_model_of",
    "config_beside",
    "describe",
    "load_adapter",
    "module_names",
    "names_and_writer",
    "parse_adapter",
    "producer",
    "scaling_of",
    "split_keys",
]
