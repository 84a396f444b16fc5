"""The command ``lokr``."""

from ._command import main

__all__ = ["main"]
