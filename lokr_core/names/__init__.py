"""Names: which architecture a target is, and what else its modules are called. One table per architecture, as data."""

from .guess import guess
from .matching import aliases, detect
from .registry import ARCHITECTURES
from .tables import Architecture, Slot

__all__ = ["ARCHITECTURES", "Architecture", "Slot", "aliases", "detect", "guess"]
