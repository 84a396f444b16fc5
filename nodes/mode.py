"""Merge or live: which of the two a node takes, and why."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import comfy.model_management as management
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..lokr_core.live import IMAGE, VIDEO, step_share
from ..lokr_core.strengths import BlockStrengths, Schedule
from .bridge import Plan
from .inputs import AUTO

MERGE, LIVE = "merge", "live"
MODES = (AUTO, MERGE, LIVE)
CHEAP = 0.02
"""The share of a step up to which live is worth more than a merge: a changed strength then costs nothing."""


def mode_input() -> io.Combo.Input:
    return io.Combo.Input(
        "mode",
        options=list(MODES),
        default=AUTO,
        optional=True,
        advanced=True,
        tooltip="merge: into the weights; costs some seconds at every change, nothing per step. "
        "live: beside the weights; a change costs nothing, each step some percent more; exact on quantised models. "
        "auto: live for quantised or offloaded models, once a strength was changed, and for models whose steps live "
        "costs under 2 %; else merge.",
    )


@dataclass(frozen=True)
class How:
    """How to apply an adapter. ``changed``: its strengths differ from those of this node's last run."""

    mode: str = AUTO
    changed: bool = False
    blocks: BlockStrengths | None = None
    schedule: Schedule | None = None


def choose(how: How, patcher: ModelPatcher, plan: Plan) -> tuple[str, str]:
    """(``MERGE`` or ``LIVE``, the reason in words).

    plan: what the adapter changes in the model

    ``auto`` is live if merging would lose precision or would be repeated, or if live costs next to nothing; else merge,
    which costs some seconds once and then nothing per step.
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
    share = step_share(plan.matches, plan.target, patcher.load_device, _dtype(patcher.model), _positions(patcher.model))
    if share < CHEAP:
        return LIVE, f"it is estimated to cost {share:.1%} of a step, and a changed strength costs nothing"
    return MERGE, "nothing was changed since the last run, and merged weights cost nothing per step"


def _dtype(model: torch.nn.Module) -> torch.dtype:
    return next((weight.dtype for weight in model.parameters() if weight.ndim > 1), torch.float32)


def _positions(model: torch.nn.Module) -> int:
    """The usual number of a step's positions, by whether the model makes images or videos."""
    return VIDEO if getattr(getattr(model, "latent_format", None), "latent_dimensions", 2) == 3 else IMAGE


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
