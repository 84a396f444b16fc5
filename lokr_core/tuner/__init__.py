"""Training LoKr adapters: PEFT's surface, computed from the factors."""

from .config import LoKrConfig
from .layer import LoKrLayer
from .layers import Conv1d, Conv2d, Conv3d, Linear
from .load import load_lokr_model
from .model import LoKrModel, get_lokr_model

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "Linear",
    "LoKrConfig",
    "LoKrLayer",
    "LoKrModel",
    "get_lokr_model",
    "load_lokr_model",
]
