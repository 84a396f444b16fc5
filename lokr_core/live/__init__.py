"""The engine that adds an adapter to a model's outputs: no weight changes, and a strength is a number."""

from .._layers import CONVOLUTION, LINEAR, dequantized, kind_of
from ._handle import LiveHandle, attach, unsupported
from ._hook import LiveHook, hook_of
from ._way import FACTORED, THROUGH, LayerPlan, forced

__all__ = [
    "CONVOLUTION",
    "FACTORED",
    "LINEAR",
    "THROUGH",
    "LayerPlan",
    "LiveHandle",
    "LiveHook",
    "attach",
    "dequantized",
    "forced",
    "hook_of",
    "kind_of",
    "unsupported",
]
