"""The version of this package."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """The installed package's version, or "unknown" if the files were copied instead."""
    try:
        return metadata.version("comfyui-lokr")
    except metadata.PackageNotFoundError:
        return "unknown"
