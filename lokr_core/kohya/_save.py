"""A network's file, with the hashes by which sd-scripts and A1111 know a file without reading it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from .._files import replacing, save_tensors

_LEGACY = slice(0x100000, 0x110000)  # the bytes of a file that its old hash is of


def save(state: Mapping[str, Tensor], path: Path, dtype: torch.dtype | None, metadata: Mapping[str, str]) -> None:
    """Write a state dict: safetensors, or a pickle if the suffix is another.

    alpha stays in fp32: half precision rounds it, and a rank of 100,000 overflows.
    """
    tensors = {
        key: tensor.detach().cpu().to(dtype if dtype and not key.endswith(".alpha") else tensor.dtype).contiguous()
        for key, tensor in state.items()
    }
    if path.suffix != ".safetensors":
        with replacing(path) as temporary:
            torch.save(tensors, temporary)
        return
    save_tensors(tensors, path, {**metadata, **_hashes(tensors, metadata)})


def _hashes(tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """sd-scripts' hashes, of the training's metadata alone: others may be edited later."""
    kept = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    whole = safetensors.torch.save(tensors, kept)
    begin = 8 + int.from_bytes(whole[:8], "little")
    return {
        "sshs_model_hash": hashlib.sha256(memoryview(whole)[begin:]).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(whole[_LEGACY]).hexdigest()[:8],
    }
