"""Names: the architecture of a target, and the aliases of its modules. One table per architecture, as data."""

from ._base_model import BaseModel, base_model_of
from ._crossed import crossed
from ._display import original_name
from ._mixed import meanings
from ._registry import aliases, detect, guesses, roots, spelled
from ._sub_models import SubModel, sub_models
from ._supposed import supposed_shapes
from ._text import TABLES as TEXT_ENCODERS
from ._unet import TABLES as UNETS
from ._words import DIFFUSERS, FUSIONS, ORIGINAL, WEIGHTS, Architecture, Slot, mask_numbers, weight_name

__all__ = [
    "Architecture",
    "BaseModel",
    "DIFFUSERS",
    "FUSIONS",
    "ORIGINAL",
    "Slot",
    "SubModel",
    "TEXT_ENCODERS",
    "UNETS",
    "WEIGHTS",
    "aliases",
    "base_model_of",
    "crossed",
    "detect",
    "guesses",
    "mask_numbers",
    "meanings",
    "original_name",
    "roots",
    "spelled",
    "sub_models",
    "supposed_shapes",
    "weight_name",
]
