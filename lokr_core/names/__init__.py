"""Names: which architecture a target is, and what else its modules are called. One table per architecture, as data."""

from .guess import guess, guesses
from .matching import aliases, detect, spelled
from .registry import ARCHITECTURES
from .tables import DIFFUSERS, ORIGINAL, Architecture, Slot

__all__ = [
    "ARCHITECTURES",
    "DIFFUSERS",
    "ORIGINAL",
    "Architecture",
    "Slot",
    "aliases",
    "detect",
    "guess",
    "guesses",
    "spelled",
]
