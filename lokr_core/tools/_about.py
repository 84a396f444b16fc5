"""What a converted file takes over from the one that it was made of, and says about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone

import torch

from ..adapter import Adapter, ModuleName
from ..names import base_model_of
from ._version import version

CONVERSION_KEY = "lokr.converted"
"""The key of ``__metadata__`` that says, as JSON, what a file was converted from and how near it is."""


# Base model -> its name in a modelspec, as sd-scripts writes it (library/sai_model_spec.py).
_ARCHITECTURES = {
    "Stable Diffusion 1.x": "stable-diffusion-v1",
    "SDXL": "stable-diffusion-xl-v1-base",
    "Flux.1": "flux-1",
    "Chroma": "chroma",
    "Lumina 2": "lumina-2",
    "HunyuanImage 2.1": "hunyuan-image-2.1",
}
# Hashes of a file's tensors, which are not those of what is made of it.
_HASHES = ("sshs_", "modelspec.hash_sha256", "modelspec.predecessor")


def without_hashes(metadata: Mapping[str, str]) -> dict[str, str]:
    """``metadata`` without the hashes of the tensors that they were written with."""
    return {key: text for key, text in metadata.items() if not key.startswith(_HASHES)}


def modelspec(adapter: Adapter, format: str) -> dict[str, str]:
    """The ``modelspec.`` metadata of an adapter's file in ``format``, with what the adapter's own say of it.

    Empty if the adapter has none and its architecture has no name there.
    """
    old = {k: v for k, v in without_hashes(adapter.metadata).items() if k.startswith("modelspec.")}
    shapes = {module: weights.shape for module, weights in adapter.items()}
    title = base_model_of(adapter.names, shapes, adapter.metadata).title
    known = old.get("modelspec.architecture", "").partition("/")[0] or _ARCHITECTURES.get(title, "")
    if not old and not known:
        return {}
    new = {"modelspec.sai_model_spec": "1.0.0", **old}
    new["modelspec.date"] = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    new |= {"modelspec.architecture": f"{known}/lora"} if known else {}
    new |= {"modelspec.implementation": "diffusers"} if format in ("diffusers", "peft") else {}
    return new


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
