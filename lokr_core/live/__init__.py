"""The engine that adds an adapter to a model's outputs: no weight changes, and a strength is a number."""

from ._handle import LiveHandle, attach, unsupported
from ._hook import LiveHook, hook_of

__all__ = [
    "LiveHandle",
    "LiveHook",
    "attach",
    "hook_of",
    "unsupported",
]
