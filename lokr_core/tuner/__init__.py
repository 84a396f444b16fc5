"""Training LoKr adapters: PEFT's surface, computed from the factors."""

from ..peft import LoKrConfig
from ._apart import LoKrLayers, trainable_modules
from ._create import get_lokr_model
from ._layer import Conv1d, Conv2d, Conv3d, Linear, LoKrLayer
from ._load import load_lokr_model
from ._model import LoKrModel

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "Linear",
    "LoKrConfig",
    "LoKrLayer",
    "LoKrLayers",
    "LoKrModel",
    "get_lokr_model",
    "load_lokr_model",
    "trainable_modules",
]
