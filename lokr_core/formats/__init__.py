"""Files of every producer, read into an ``Adapter`` and written back."""

from .read import load_adapter, parse_adapter
from .write import save_adapter

__all__ = ["load_adapter", "parse_adapter", "save_adapter"]
