"""LoKr adapters (ΔW = scaling · W1 ⊗ W2) for any torch model: read, merge and write them.

>>> import lokr_core
>>> adapter = lokr_core.load_adapter("style.safetensors")        # doctest: +SKIP
>>> with lokr_core.merge_adapter(model, adapter, strength=0.8):  # doctest: +SKIP
...     image = model(latent)
"""

from .adapter import Adapter, LoKrWeights
from .errors import LoKrError, LoKrFileError, LoKrMatchError, LoKrShapeError, LoKrValueError
from .formats import load_adapter, save_adapter
from .kronecker import Factor, factorization
from .live import LiveHandle, attach
from .merge import MergeHandle, merge_adapter
from .names import Slot
from .report import Report
from .resolve import Match, other_places, resolve
from .targets import Target, weight_name
from .tuner import LoKrConfig, LoKrLayer, LoKrModel, get_lokr_model, load_lokr_model

__all__ = [
    "Adapter",
    "Factor",
    "LiveHandle",
    "LoKrConfig",
    "LoKrError",
    "LoKrFileError",
    "LoKrLayer",
    "LoKrMatchError",
    "LoKrModel",
    "LoKrShapeError",
    "LoKrValueError",
    "LoKrWeights",
    "Match",
    "MergeHandle",
    "Report",
    "Slot",
    "Target",
    "attach",
    "factorization",
    "get_lokr_model",
    "load_adapter",
    "load_lokr_model",
    "merge_adapter",
    "other_places",
    "resolve",
    "save_adapter",
    "weight_name",
]
