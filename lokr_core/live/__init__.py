"""The engine that adds an adapter to a model's outputs: no weight changes, and a strength is a number."""

from .._layers import CONVOLUTION, LINEAR, dequantized, kind_of
from ._handle import LiveHandle, attach, unsupported
from ._hook import LiveHook, hook_of

__all__ = [
    "CONVOLUTION",
    "LINEAR",
    "LiveHandle",
    "LiveHook",
    "attach",
    "dequantized",
    "hook_of",
    "kind_of",
    "unsupported",
]
