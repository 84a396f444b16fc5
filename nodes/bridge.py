"""ComfyUI's model and clip <-> lokr_core's target: names in, patches out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import comfy.lora
import comfy.lora_convert
from comfy.utils import swap_scale_shift

from ..lokr_core.adapter import Adapter
from ..lokr_core.matching import Match, Report, Target, other_places, resolve, weight_name
from ..lokr_core.names import Slot
from .patch import LoKrPatch

__all__ = ["Plan", "patches_of", "plan_of", "target_of"]


_targets: WeakKeyDictionary = WeakKeyDictionary()


def target_of(module, keys: dict) -> Target:
    """The model's weights under its own names, our tables' and ComfyUI's."""
    if module not in _targets:
        shapes = {name: tuple(weight.shape) for name, weight in module.named_parameters()}
        aliases = {name: (_slot(key),) for name, key in keys.items() if _weight(key) in shapes}
        _targets[module] = Target(shapes, aliases)
    return _targets[module]


@dataclass(frozen=True, eq=False)
class Plan:
    """What an adapter does to a model: lokr_core's matches, and patches of what ComfyUI's own loader alone can read.

    ``report`` is on all of the file.
    """

    adapter: Adapter
    target: Target
    matches: list[Match]
    handed: dict
    report: Report


# What matches what is worked out once per model and file, and goes with whichever is forgotten first.
_plans: WeakKeyDictionary = WeakKeyDictionary()


def plan_of(adapter: Adapter, module, keys_of: Callable[[object, dict], dict]) -> Plan:
    """``adapter`` on ``module``, worked out once; keys_of: ComfyUI's function that names the model's weights."""
    plans = _plans.setdefault(module, WeakKeyDictionary())
    if adapter not in plans:
        keys = keys_of(module, {})
        target = target_of(module, keys)
        matches, report = resolve(adapter, target)
        # What the core can't place goes to ComfyUI's own loader, which is told our names for it.
        left = {entry.module for entry in report.refused if entry.kind == adapter.other_kinds.get(entry.module)}
        other = comfy.lora_convert.convert_lora(adapter.other_by_name(left))
        places = {name: _key(slot, target.shapes) for name, slot in other_places(adapter, target).items()}
        handed = comfy.lora.load_lora(other, keys | places, log_missing=False)
        report.hand_over(left.intersection(name for name, key in (keys | places).items() if key in handed))
        plans[adapter] = Plan(adapter, target, matches, handed, report)
    return plans[adapter]


def patches_of(matches: list[Match], target: Target) -> list[dict]:
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
