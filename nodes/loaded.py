"""Which adapters are in force on a MODEL or a CLIP: what LoKr Save writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from comfy.model_patcher import ModelPatcher

from ..lokr_core.adapter import Adapter

_KEY = "lokr_loaded"


@dataclass(frozen=True, eq=False)
class Loaded:
    """An adapter as a node applied it.

    strengths: its modules that found a place -> strength, with the blocks' factors
    handed: how many patches ComfyUI's own loader made of it
    scheduled: whether a schedule changes the strength while sampling
    """

    adapter: Adapter
    strengths: Mapping[str, float]
    handed: int
    scheduled: bool


def remember(patcher: ModelPatcher, loaded: Loaded) -> None:
    """Note ``loaded`` on ``patcher``, which is a fresh clone. Its clones have the note too."""
    patcher.set_attachments(_KEY, (*loaded_on(patcher), loaded))


def loaded_on(patcher: ModelPatcher) -> tuple[Loaded, ...]:
    """What LoKr nodes have put on ``patcher``, in order."""
    return patcher.attachments.get(_KEY, ())
