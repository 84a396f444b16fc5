"""LoKr adapters (ΔW = scaling · W1 ⊗ W2) for any torch model: read, merge, apply live, train and write them.

>>> import lokr_core
>>> adapter = lokr_core.load_adapter("style.safetensors")        # doctest: +SKIP
>>> with lokr_core.merge_adapter(model, adapter, strength=0.8):  # doctest: +SKIP
...     image = model(latent)
"""

from .adapter import Adapter, Foreign, ForeignModule, LoKrWeights, ModuleName
from .errors import LoKrError, LoKrFileError, LoKrMatchError, LoKrShapeError, LoKrValueError
from .formats import load_adapter
from .handle import Handle
from .kronecker import Factor, factorization
from .live import LiveHandle, attach
from .matching import Match, Report, Target, foreign_places, resolve, weight_name
from .merge import MergeHandle, merge_adapter
from .names import Slot
from .pipelines import PipelineAdapters, load_lokr_weights
from .saving import save_adapter

other_places = foreign_places  # an alias: its name in 0.1.0

_TUNER = ("LoKrConfig", "LoKrLayer", "LoKrModel", "get_lokr_model", "load_lokr_model")
_PEERS = ("speed_up",)

__all__ = [
    "Adapter",
    "Factor",
    "Foreign",
    "ForeignModule",
    "Handle",
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
    "ModuleName",
    "PipelineAdapters",
    "Report",
    "Slot",
    "Target",
    "attach",
    "factorization",
    "foreign_places",
    "get_lokr_model",
    "load_adapter",
    "load_lokr_model",
    "load_lokr_weights",
    "merge_adapter",
    "other_places",
    "resolve",
    "save_adapter",
    "speed_up",
    "weight_name",
]


def __getattr__(name: str):
    """The trainable layers, imported when first asked for: hosts that never train do not load them."""
    if name in _TUNER:
        from . import tuner

        return getattr(tuner, name)
    if name in _PEERS:
        from . import peers

        return getattr(peers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
