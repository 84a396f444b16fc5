"""The engine that adds an adapter to a model's outputs: no weight is touched, a strength is a number."""

from ._handle import LiveHandle, attach
from ._hook import LiveHook, hook_of

__all__ = [
    "LiveHandle",
    "LiveHook",
    "attach",
    "hook_of",
]
