"""An adapter onto a MODEL and a CLIP, merged or live."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

import comfy.lora
from comfy.model_patcher import ModelPatcher

from ..lokr_core.adapter import Adapter, check_strength
from ..lokr_core.errors import LoKrMatchError
from ..lokr_core.matching import Report
from .bridge import Plan, patches_of, plan_of
from .live import Live, seat_for
from .loaded import remember
from .mode import LIVE, MERGE, How, choose

__all__ = ["apply_adapter"]


def apply_adapter(
    model: ModelPatcher | None,
    clip,
    adapter: Adapter,
    strength_model: float,
    strength_clip: float,
    how: How | None = None,
):
    """Clones of ``model`` and ``clip`` with ``adapter`` in force, and the report: (model, clip, report).

    Either may be None. A strength of 0 leaves its part as it is. Blocks and schedules are the model's alone. Raises
    LoKrMatchError where nothing matches, LoKrValueError for blocks that the model has not.
    """
    how = how or How(MERGE)
    reports, modes = [], {}
    if model is not None:
        plan = plan_of(adapter, model.model, comfy.lora.model_lora_keys_unet)
        model, modes["model"] = _apply(model, model, plan, strength_model, how)
        reports.append(plan.report)
    if clip is not None:
        plan = plan_of(adapter, clip.cond_stage_model, comfy.lora.model_lora_keys_clip)
        clip, modes["clip"] = _apply(clip, clip.patcher, plan, strength_clip, replace(how, blocks=None, schedule=None))
        reports.append(plan.report)
    report = Report.merged(adapter, reports)
    report.raise_if_nothing_matched()
    notes = [f"{part}: {note}" for part, said in modes.items() for note in said]
    report.notes += notes if len(set(map(tuple, modes.values()))) > 1 else next(iter(modes.values()), [])
    return model, clip, report


def _apply(owner, patcher: ModelPatcher, plan: Plan, strength: float, how: How) -> tuple[object, list[str]]:
    """A clone of ``owner``, a MODEL or a CLIP that holds ``patcher``, with the plan in force, and what to say of it."""
    strength = check_strength(strength)
    factor_of = _one
    if how.blocks is not None:
        modules = (name.rpartition(".")[0] for name in plan.target.shapes)
        factor_of = how.blocks.over(dict.fromkeys(modules))
    if not plan.matches and not plan.handed:
        return owner, []
    if strength == 0:
        return owner, ["strength 0: not applied"]
    mode, why = choose(how, patcher)
    notes = [f"{mode}: {why}"]
    owner = owner.clone()
    patcher = owner.patcher if patcher is not owner and hasattr(owner, "patcher") else owner
    merged = plan.matches
    if mode == LIVE and plan.matches:
        followed = _put_live(patcher, plan, strength, factor_of, how)
        merged = [match for match in plan.matches if (match.module, match.kind) not in followed]
        if merged:
            notes.append(f"{len(merged)} modules are merged all the same, since live can't follow their layers")
    _merge(patcher, patches_of(merged, plan.target), strength, factor_of)
    _merge(patcher, [plan.handed], strength, factor_of)
    remember(patcher, plan, strength, factor_of, how.schedule is not None)
    if how.schedule is not None and plan.handed:
        notes.append("the schedule does not reach what was handed to ComfyUI's own loader")
    return owner, notes


def _put_live(
    patcher: ModelPatcher, plan: Plan, strength: float, factor_of: Callable, how: How
) -> set[tuple[str, str]]:
    """Put the plan's matches on ``patcher``, live; (module, kind) of all that live can follow."""
    try:
        report = seat_for(patcher.model, plan.adapter, plan.target).handle.report
    except LoKrMatchError:
        return set()
    Live(plan.adapter, plan.target, strength, factor_of, how.schedule).put_on(patcher)
    return {(entry.module, entry.kind) for entry in report.applied}


def _merge(patcher: ModelPatcher, layers: list[dict], strength: float, factor_of: Callable[[str], float]) -> None:
    """Add patches, each at its module's own strength. None are no change: ComfyUI would load the model anew for it."""
    for layer in layers:
        by_factor: dict[float, dict] = defaultdict(dict)
        for key, patch in layer.items():
            name = key if isinstance(key, str) else key[0]
            by_factor[factor_of(name.rpartition(".")[0])][key] = patch
        for factor, patches in by_factor.items():
            if factor:
                patcher.add_patches(patches, strength * factor)


def _one(module: str) -> float:
    return 1.0
