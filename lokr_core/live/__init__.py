"""The engine that adds an adapter to a model's outputs: no weight is touched, a strength is a number."""

from .handle import LiveHandle, attach

__all__ = ["LiveHandle", "attach"]
