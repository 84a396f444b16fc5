"""Which architecture a file was trained for, by its modules' names: for a person who has put it on another one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from .registry import ARCHITECTURES

__all__ = ["guess"]

# Stable Diffusion's UNets share their names; how wide a text encoder they listen to tells them apart.
# Columns of a cross attention's key or value -> title.
UNETS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 1280: "SDXL refiner", 2048: "SDXL"}
_LISTENS = re.compile(r"(down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block)_.*attn2_to_[kv]")

SHARE = 0.8
"""How many of a file's modules an architecture must know to be guessed."""


def guess(modules: Mapping[str, tuple[int, ...]]) -> str | None:
    """The title of the architecture, from module paths (dotted or flattened) -> shapes of their updates; or None.

    An architecture whose names are the same on both sides has few in its table, and is not guessed.
    """
    flat = {path.replace(".", "_"): shape for path, shape in modules.items()}
    for path, shape in flat.items():
        if _LISTENS.search(path):
            return UNETS.get(shape[1])
    masked = [_masked(path) for path in flat]
    known = [(sum(path in names for path in masked), title) for title, names in _names().items()]
    count, title = max(known, default=(0, ""))
    return title if masked and count >= SHARE * len(masked) else None


def _masked(path: str) -> str:
    return re.sub(r"(?<=_)\d+(?=_|$)|(?<=_)\{\w+\}(?=_|$)", "#", path)


@cache
def _names() -> dict[str, frozenset[str]]:
    """Title -> every name of the architecture's table, flattened, block numbers masked."""
    found = {}
    for architecture in ARCHITECTURES:
        names = {name for rule in architecture.rules for name in (rule.original, *rule.diffusers)}
        found[architecture.title] = frozenset(_masked(name.replace(".", "_")) for name in names)
    return found
