"""A model's weights as they are without ComfyUI's patches."""

from __future__ import annotations

import torch
from comfy.model_patcher import ModelPatcher
from comfy.utils import get_attr

from ..lokr_core.live import dequantized


def unpatched_weight(patcher: ModelPatcher, name: str) -> torch.Tensor:
    """The numbers of a weight without ComfyUI's patches."""
    backup = patcher.backup.get(name)
    return dequantized(get_attr(patcher.model, name) if backup is None else backup.weight)
