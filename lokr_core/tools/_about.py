"""What a converted file takes over from the one that it was made of, and says about it."""

from __future__ import annotations

import json

import torch

from ..adapter import Adapter, ModuleName
from ._version import version

CONVERSION_KEY = "lokr.converted"
"""The key of ``__metadata__`` that says, as JSON, what a file was converted from and how near it is."""


def format_of(adapter: Adapter) -> str:
    """The format whose names a file has, "kohya" if they are like none."""
    first = next(iter(adapter.names.values()), ModuleName("", ""))
    prefix = first.full[: len(first.full) - len(first.path)]
    starts = {"lora_": "kohya", "lycoris_": "lycoris", "diffusion_model.": "comfyui", "base_model.": "peft"}
    starts |= {"unet.": "diffusers", "transformer.": "diffusers", "text_encoder": "diffusers"}
    return next((format for start, format in starts.items() if prefix.startswith(start)), "kohya")


def dtype_of(adapter: Adapter) -> torch.dtype:
    """The dtype of the most tensors of a file."""
    dtypes = [t.dtype for weights in adapter.values() for f in (weights.w1, weights.w2) for t in f.tensors.values()]
    dtypes = [dtype for dtype in dtypes if dtype.is_floating_point]
    return max(dict.fromkeys(dtypes), key=dtypes.count) if dtypes else torch.float32


def note_of(adapter: Adapter, to: str, energy: float) -> str:
    """The value of ``CONVERSION_KEY``."""
    note = {"from": adapter.path.name if adapter.path else None, "to": to, "energy": round(energy, 6)}
    return json.dumps({**note, "version": version()})
