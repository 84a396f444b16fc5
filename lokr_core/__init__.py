"""LoKr adapters (ΔW = scaling · W1 ⊗ W2) for any torch model: read, merge and write them.

>>> import lokr_core
>>> adapter = lokr_core.load_adapter("style.safetensors")        # doctest: +SKIP
>>> with lokr_core.merge_adapter(model, adapter, strength=0.8):  # doctest: +SKIP
...     image = model(latent)
"""

from .adapter import Adapter, LoKrWeights
from .errors import LoKrError, LoKrFileError, LoKrMatchError, LoKrShapeError, LoKrValueError
from .formats._read import load_adapter
from .formats._write import save_adapter
from .kronecker._factor import Factor
from .kronecker._factorization import factorization
from .live._handle import LiveHandle, attach
from .matching._match import Match, other_places, resolve
from .matching._report import Report
from .matching._target import Target, weight_name
from .merge import MergeHandle, merge_adapter
from .names._words import Slot
from .peft._config import LoKrConfig
from .tuner._layer import LoKrLayer
from .tuner._load import load_lokr_model
from .tuner._model import LoKrModel, get_lokr_model

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
