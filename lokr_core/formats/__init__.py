"""Files of every producer, read into an ``Adapter``."""

from ..modules import EXPERTS, expert_called
from ._embeddings import BundledEmbedding, bundled_embeddings
from ._keys import SortedKeys, describe, split_keys
from ._naming import module_names, producer
from ._read import load_adapter, names_and_writer, parse_adapter
from ._sources import config_beside

__all__ = [
    "BundledEmbedding",
    "EXPERTS",
    "SortedKeys",
    "bundled_embeddings",
    "config_beside",
    "describe",
    "expert_called",
    "load_adapter",
    "module_names",
    "names_and_writer",
    "parse_adapter",
    "producer",
    "split_keys",
]
