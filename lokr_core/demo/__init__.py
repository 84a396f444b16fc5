"""``lokr demo``, on a small model that is made on the spot."""

from ._demo import run_demo

__all__ = ["run_demo"]
