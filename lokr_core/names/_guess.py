"""Which architecture a file was trained for, by its modules' names: for a person who has put it on another one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from ._registry import ARCHITECTURES
from ._words import DIFFUSERS, ORIGINAL

# Stable Diffusion's UNets share their names; how wide a text encoder they listen to tells them apart.
# Columns of a cross attention's key or value -> title.
UNETS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 1280: "SDXL refiner", 2048: "SDXL"}
_LISTENS = re.compile(r"(down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block)_.*attn2_to_[kv]")

SHARE = 0.8
"""How many of a file's modules an architecture must know to be guessed."""


COMMON = ("Flux.1", "Flux.2", "HunyuanVideo")
"""Of architectures that share names, those that most adapters are for."""


def guess(modules: Mapping[str, tuple[int, ...]]) -> str | None:
    """The likeliest of ``guesses``, None where there is none."""
    return next(iter(guesses(modules)), None)


def guesses(modules: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Titles of the architectures whose names fit best, from module paths (dotted or flattened) -> shapes of their
    updates. Several where a file's few modules have the same names in each, the likeliest first.

    An architecture whose names are the same on both sides has few in its table, and is not guessed.
    """
    flat = {path.replace(".", "_"): shape for path, shape in modules.items()}
    for path, shape in flat.items():
        if _LISTENS.search(path):
            return [UNETS[shape[1]]] if shape[1] in UNETS else []
    masked = [_masked(path) for path in flat]
    known = [(sum(path in names for path in masked), title) for title, names in _names().items()]
    most = max((count for count, _ in known), default=0)
    if not masked or most < SHARE * len(masked):
        return []
    tied = [title for count, title in known if count == most]
    return sorted(tied, key=lambda title: COMMON.index(title) if title in COMMON else len(COMMON))


def _masked(path: str) -> str:
    return re.sub(r"(?<=_)\d+(?=_|$)|(?<=_)\{\w+\}(?=_|$)", "#", path)


@cache
def _names() -> dict[str, frozenset[str]]:
    """Title -> every name of the architecture's table, flattened, block numbers masked."""
    found = {}
    for architecture in ARCHITECTURES:
        names = {name for rule in architecture.rules for side in (ORIGINAL, DIFFUSERS) for name in rule.names(side)}
        found[architecture.title] = frozenset(_masked(name.replace(".", "_")) for name in names)
    return found
