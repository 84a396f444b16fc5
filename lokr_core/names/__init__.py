"""Names: which architecture a target is, and what else its modules are called. One table per architecture, as data."""

from ._guess import guess, guesses
from ._registry import ARCHITECTURES
from ._shown import original_name
from ._text import TABLES as TEXT_ENCODERS
from ._translate import aliases, detect, spelled
from ._unet import TABLES as UNETS
from ._words import DIFFUSERS, ORIGINAL, Architecture, Slot

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "DIFFUSERS",
    "ORIGINAL",
    "Slot",
    "TEXT_ENCODERS",
    "UNETS",
    "aliases",
    "detect",
    "guess",
    "guesses",
    "original_name",
    "spelled",
]
