"""The adapters that nodes read last."""

from __future__ import annotations

from functools import lru_cache

from ..lokr_core.adapter import Adapter
from ..lokr_core.formats import load_adapter
from .files import version


def read_adapter(name: str, expert: str = "") -> Adapter:
    """The adapter of that name, read again only after the file has changed; ``expert``: see ``load_adapter``."""
    return _read(*version(name), expert)


@lru_cache(maxsize=4)
def _read(path: str, mtime_ns: int, size: int, expert: str) -> Adapter:
    return load_adapter(path, expert)
