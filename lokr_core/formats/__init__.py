"""Files of every producer, read into an ``Adapter`` and written back."""

from ._keys import SortedKeys, describe, split_keys
from ._naming import module_names, producer
from ._peft_form import peft_layout
from ._producers import SPELLINGS
from ._read import load_adapter, parse_adapter
from ._rename import rename
from ._write import save_adapter

__all__ = [
    "SPELLINGS",
    "SortedKeys",
    "describe",
    "load_adapter",
    "module_names",
    "parse_adapter",
    "peft_layout",
    "producer",
    "rename",
    "save_adapter",
    "split_keys",
]
