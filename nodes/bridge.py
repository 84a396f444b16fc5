"""ComfyUI's names of a model's weights <-> lokr_core's target, and what an adapter does to the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import comfy.lora
import comfy.lora_convert
from comfy.utils import swap_scale_shift

from ..lokr_core.adapter import Adapter
from ..lokr_core.matching import Match, Report, Target, foreign_places, resolve, weight_name
from ..lokr_core.names import Slot

_targets: WeakKeyDictionary = WeakKeyDictionary()


def target_of(module, keys: dict, source: str = "") -> Target:
    """The model's weights under its own names, our tables' and ComfyUI's; source: the model's file."""
    if module not in _targets:
        shapes = {name: tuple(weight.shape) for name, weight in module.named_parameters()}
        aliases = {name: (_slot(key),) for name, key in keys.items() if _weight(key) in shapes}
        _targets[module] = Target(shapes, aliases, source)
    return _targets[module]


@dataclass(frozen=True, eq=False)
class Plan:
    """What an adapter does to a model.

    matches: what lokr_core applies; handed: patches that ComfyUI's own loader made of the rest, by its keys
    foreign: where modules that are not LoKr belong, by name alone; report: on all of the file
    """

    adapter: Adapter
    target: Target
    matches: list[Match]
    handed: dict
    foreign: dict[str, Slot]
    report: Report

    def strengths(self, strength: float, factor_of: Callable[[str], float]) -> dict[str, float]:
        """The strength of each module of the file that has a place, ``factor_of`` its module of the model in it."""
        found = {match.module: strength * factor_of(match.slot.module) for match in self.matches}
        for entry in self.report.handed:
            slot = self.foreign.get(entry.module)
            found[entry.module] = strength * (factor_of(slot.module) if slot else 1.0)
        return found


# What matches what is worked out once per model and file, and goes with whichever is forgotten first.
_plans: WeakKeyDictionary = WeakKeyDictionary()


def file_of(patcher) -> str:
    """The file that a patcher's model was loaded from, "" if ComfyUI's own loader did not load it."""
    loaded = getattr(patcher, "cached_patcher_init", None)
    path = loaded[1][0] if loaded and loaded[1] else ""
    return path if isinstance(path, str) else ""


def plan_of(adapter: Adapter, module, keys_of: Callable[[object, dict], dict], source: str = "") -> Plan:
    """``adapter`` on ``module``, worked out once.

    keys_of: ComfyUI's function that names the model's weights; source: the model's file
    """
    plans = _plans.setdefault(module, WeakKeyDictionary())
    if adapter not in plans:
        keys = keys_of(module, {})
        target = target_of(module, keys, source)
        matches, report = resolve(adapter, target)
        # What the core can't place goes to ComfyUI's own loader, which gets our names for it.
        left = {entry.module for entry in report.refused if entry.kind != "LoKr"}
        foreign = foreign_places(adapter, target)
        names = keys | {name: _key(slot, target.shapes) for name, slot in foreign.items()}
        tensors = comfy.lora_convert.convert_lora(adapter.foreign.select(left).renamed())
        handed = comfy.lora.load_lora(tensors, names, log_missing=False)
        report.hand_over(left.intersection(name for name, key in names.items() if key in handed))
        plans[adapter] = Plan(adapter, target, matches, handed, foreign, report)
    return plans[adapter]


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
