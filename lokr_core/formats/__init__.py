"""Files of every producer, read into an ``Adapter``."""

from ._keys import SortedKeys, describe, split_keys
from ._naming import module_names, producer
from ._read import load_adapter, parse_adapter
from ._scaling import scaling_of

__all__ = [
    "SortedKeys",
    "describe",
    "load_adapter",
    "module_names",
    "parse_adapter",
    "producer",
    "scaling_of",
    "split_keys",
]
