"""The engine that adds an adapter to a model's outputs: no weight changes, and a strength is a number."""

from .._layers import CONVOLUTION, LINEAR, dequantized, kind_of
from ._handle import LiveHandle, attach, unsupported
from ._hook import LiveHook, hook_of
from ._share import IMAGE, VIDEO, step_share
from ._way import FACTORED, THROUGH, LayerPlan, estimate, forced

__all__ = [
    "CONVOLUTION",
    "FACTORED",
    "IMAGE",
    "LINEAR",
    "THROUGH",
    "VIDEO",
    "LayerPlan",
    "LiveHandle",
    "LiveHook",
    "attach",
    "dequantized",
    "estimate",
    "forced",
    "hook_of",
    "kind_of",
    "step_share",
    "unsupported",
]
