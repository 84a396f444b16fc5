"""Which adapters are in force on a MODEL or a CLIP: what LoKr Save writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from comfy.model_patcher import ModelPatcher

from ..lokr_core.adapter import Adapter
from ..lokr_core.matching import other_places
from .bridge import Plan
from .patch import LoKrPatch

__all__ = ["Loaded", "foreign_patches", "loaded_on", "remember"]

_KEY = "lokr_loaded"


@dataclass(frozen=True, eq=False)
class Loaded:
    """An adapter as a node put it there. ``strengths``: its modules that found a place -> strength, blocks' factors in
    it; ``handed``: how many patches ComfyUI's own loader made of it."""

    adapter: Adapter
    strengths: Mapping[str, float]
    handed: int
    scheduled: bool


def remember(
    patcher: ModelPatcher, plan: Plan, strength: float, factor_of: Callable[[str], float], scheduled: bool
) -> None:
    """Note on ``patcher``, which is a fresh clone, what has just been put on it. Its clones know it too."""
    strengths = {match.module: strength * factor_of(match.slot.module) for match in plan.matches}
    places = other_places(plan.adapter, plan.target)
    for entry in plan.report.handed:
        slot = places.get(entry.module)
        strengths[entry.module] = strength * (factor_of(slot.module) if slot else 1.0)
    found = Loaded(plan.adapter, strengths, len(plan.handed), scheduled)
    patcher.set_attachments(_KEY, (*loaded_on(patcher), found))


def loaded_on(patcher: ModelPatcher) -> tuple[Loaded, ...]:
    """What LoKr nodes have put on ``patcher``, in order."""
    return patcher.attachments.get(_KEY, ())


def foreign_patches(patcher: ModelPatcher) -> int:
    """How many patches other nodes have put on ``patcher``."""
    others = sum(not isinstance(patch[1], LoKrPatch) for patches in patcher.patches.values() for patch in patches)
    return max(0, others - sum(loaded.handed for loaded in loaded_on(patcher)))
