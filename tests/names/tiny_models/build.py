"""What a row of the tables is, and how a model is built of it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

Build = tuple[str | Callable[..., Any], dict[str, Any]]
"""(class, its arguments): a class of diffusers by name, or a function that makes such a model; or a class of ComfyUI's
as "module below comfy.ldm:class"."""

Row = tuple[Build | None, Build | None]
"""A diffusers model and ComfyUI's twin; None where one of the two has no such model."""


def diffusers_model(row: Build, device: str = "cpu") -> Any:
    """The diffusers model of a row, on `device`; needs diffusers."""
    import diffusers
    import torch

    cls, kwargs = row
    with torch.device(device):
        return (getattr(diffusers, cls) if isinstance(cls, str) else cls)(**kwargs)


def comfyui_model(row: Build, device: str = "cpu") -> Any:
    """ComfyUI's model of a row, on `device` in fp32; needs ComfyUI's folder in `sys.path`."""
    import comfy.ops
    import torch

    path, kwargs = row
    module, name = path.split(":")
    cls = getattr(import_module(f"comfy.ldm.{module}"), name)
    with torch.device(device):
        return cls(**kwargs, device=device, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
