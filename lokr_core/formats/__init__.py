"""Files of every producer, read into an ``Adapter``."""

from ._base_model import BaseModel, base_model_of
from ._embeddings import BundledEmbedding, bundled_embeddings
from ._experts import EXPERTS, checked_expert, choose_expert, expert_called, experts_of, own_path
from ._keys import SortedKeys, describe, split_keys
from ._magnitude import magnitude_of
from ._naming import holds_prefix, module_names, producer
from ._read import load_adapter, names_and_writer, parse_adapter
from ._scaling import scaling_of
from ._sources import config_beside

__all__ = [
    "BaseModel",
    "BundledEmbedding",
    "EXPERTS",
    "SortedKeys",
    "base_model_of",
    "bundled_embeddings",
    "checked_expert",
    "choose_expert",
    "config_beside",
    "describe",
    "expert_called",
    "experts_of",
    "holds_prefix",
    "load_adapter",
    "magnitude_of",
    "module_names",
    "names_and_writer",
    "own_path",
    "parse_adapter",
    "producer",
    "scaling_of",
    "split_keys",
]
