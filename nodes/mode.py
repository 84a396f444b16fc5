"""Merge or live: which of the two a node takes, and why."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import comfy.model_management as management
import torch
from comfy.model_patcher import ModelPatcher

from ..lokr_core.strengths import BlockStrengths, Schedule

AUTO, MERGE, LIVE = "auto", "merge", "live"
MODES = (AUTO, MERGE, LIVE)


@dataclass(frozen=True)
class How:
    """How to apply an adapter. ``changed``: its strengths differ from those of this node's last run."""

    mode: str = AUTO
    changed: bool = False
    blocks: BlockStrengths | None = None
    schedule: Schedule | None = None


def choose(how: How, patcher: ModelPatcher) -> tuple[str, str]:
    """(``MERGE`` or ``LIVE``, the reason in words).

    ``auto`` is live if merging would lose precision or would be repeated, else merge, which costs some seconds once and
    then nothing per step (live: about a tenth of each step).
    """
    if how.schedule is not None:
        return LIVE, "a schedule changes the strength while sampling"
    if how.mode != AUTO:
        return how.mode, "as set on the node"
    if _quantised(patcher.model):
        return LIVE, "the base is quantised, and a merge would round the update away"
    if _offloaded(patcher):
        return LIVE, "the model does not fit the device, and a merge would be done again at every step"
    if how.changed:
        return LIVE, "the strength was changed since the last run"
    return MERGE, "nothing was changed since the last run, and merged weights cost nothing per step"


_known_quantised: WeakKeyDictionary = WeakKeyDictionary()
_PLAIN = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def _quantised(model: torch.nn.Module) -> bool:
    """Whether any weight of two axes or more is stored in fewer than 16 bits, in whatever class."""
    if model not in _known_quantised:
        _known_quantised[model] = any(
            weight.dtype not in _PLAIN or type(weight) not in (torch.Tensor, torch.nn.Parameter)
            for weight in model.parameters()
            if weight.ndim > 1
        ) or any(hasattr(weight, "tensor_type") for weight in model.parameters())
    return _known_quantised[model]


def _offloaded(patcher: ModelPatcher) -> bool:
    device = patcher.load_device
    if management.is_device_cpu(device):
        return False
    if management.vram_state in (management.VRAMState.LOW_VRAM, management.VRAMState.NO_VRAM):
        return True
    if getattr(patcher.model, "model_lowvram", False):
        return True
    return patcher.model_size() > patcher.get_free_memory(device) + patcher.loaded_size()
