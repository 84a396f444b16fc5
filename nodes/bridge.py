"""ComfyUI's model and clip <-> lokr_core's target: names in, patches out."""

from __future__ import annotations

from dataclasses import replace
from weakref import WeakKeyDictionary

import comfy.lora
import comfy.lora_convert
from comfy.model_patcher import ModelPatcher
from comfy.utils import swap_scale_shift

from ..lokr_core import REFUSED, Adapter, Match, Report, Slot, Target, other_places, resolve, weight_name
from .patch import LoKrPatch

__all__ = ["apply_adapter"]


def apply_adapter(model: ModelPatcher | None, clip, adapter: Adapter, strength_model: float, strength_clip: float):
    """Clones of ``model`` and ``clip`` with ``adapter`` patched in, and the report: (model, clip, report).

    Either may be None. A strength of 0 leaves its part as it is. Raises LoKrMatchError where nothing matches.
    """
    reports = []
    if model is not None:
        keys = comfy.lora.model_lora_keys_unet(model.model, {})
        model, report = _patch(model, model.model, keys, adapter, strength_model)
        reports.append(report)
    if clip is not None:
        keys = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
        clip, report = _patch(clip, clip.cond_stage_model, keys, adapter, strength_clip)
        reports.append(report)
    report = Report.merged(adapter, reports)
    report.raise_if_nothing_matched()
    return model, clip, report


# What matches what is worked out once per model and file; both go with whichever is forgotten first.
_targets: WeakKeyDictionary = WeakKeyDictionary()
_resolved: WeakKeyDictionary = WeakKeyDictionary()


def target_of(module, keys: dict) -> Target:
    """The model's weights under its own names, our tables' and ComfyUI's."""
    if module not in _targets:
        shapes = {name: tuple(weight.shape) for name, weight in module.named_parameters()}
        aliases = {name: (_slot(key),) for name, key in keys.items() if _weight(key) in shapes}
        _targets[module] = Target(shapes, aliases)
    return _targets[module]


def matches_of(adapter: Adapter, target: Target) -> tuple[list[Match], Report]:
    """``resolve``, once per pair; the report is the caller's to write in."""
    known = _resolved.setdefault(adapter, WeakKeyDictionary())
    if target not in known:
        known[target] = resolve(adapter.only_lokr(), target)
        for module, kind in adapter.other_kinds.items():
            known[target][1].add(module, REFUSED, kind=kind, reason="ComfyUI's own loader finds no place for it")
    matches, report = known[target]
    return matches, replace(report, entries=list(report.entries), notes=list(report.notes))


def _patch(patcher, module, keys: dict, adapter: Adapter, strength: float):
    """A clone of ``patcher`` (a model's or a clip's) with every update that belongs to ``module``, and its report."""
    target = target_of(module, keys)
    matches, report = matches_of(adapter, target)
    # What is no LoKr goes to ComfyUI's own loader, which is told our names for it.
    other = comfy.lora_convert.convert_lora(adapter.other_by_name())
    places = {name: _key(slot, target.shapes) for name, slot in other_places(adapter, target).items()}
    handed = comfy.lora.load_lora(other, keys | places, log_missing=False)
    report.hand_over(name for name, key in (keys | places).items() if key in handed)
    if strength == 0:
        return patcher, report
    patcher = patcher.clone()
    for patches in (*_patches(matches, target), handed):
        patcher.add_patches(patches, strength)
    return patcher, report


def _patches(matches: list[Match], target: Target) -> list[dict]:
    """ComfyUI's key -> patch; a second dict holds what a second module adds to the same rows, and so on."""
    layers: list[dict] = []
    for match in matches:
        for start, update in match.pieces:
            rows = (0, start, update.shape[0])
            key = match.weight if rows[2] == target.shapes[match.weight][0] else (match.weight, rows)
            layer = next((layer for layer in layers if key not in layer), None)
            if layer is None:
                layers.append(layer := {})
            layer[key] = LoKrPatch.of(match.module, update)
    return layers


def _weight(key: str | tuple) -> str:
    return key if isinstance(key, str) else key[0]


def _slot(key: str | tuple) -> Slot:
    """ComfyUI's key, a name or (name, (axis, start, length) or None[, function]), as the core's slot."""
    module, _, parameter = _weight(key).rpartition(".")
    if isinstance(key, str):
        return Slot(module, parameter=parameter)
    rows = None if key[1] is None else tuple(key[1][1:])
    return Slot(module, rows, swap=len(key) > 2 and key[2] is swap_scale_shift, parameter=parameter)


def _key(slot: Slot, shapes) -> str | tuple:
    """The core's slot as ComfyUI's key."""
    name = weight_name(slot)
    if slot.rows is None and not slot.swap:
        return name
    rows = (0, *(slot.rows or (0, shapes[name][0])))
    return (name, rows, swap_scale_shift) if slot.swap else (name, rows)
