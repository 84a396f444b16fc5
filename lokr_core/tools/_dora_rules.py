"""Where DoRA's magnitude means the same to the program that reads the file, and the trained difference elsewhere.

``dora_scale`` is the norm that V = W + ΔW is scaled to, by rows or columns. LyCORIS, PEFT and diffusers (through PEFT)
take it so, PEFT on rows alone. ComfyUI's own loader divides by the norm of W, A1111's takes the columns always: for
them the trained difference W' − W has to be taken from the base model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..adapter import Adapter, LoKrWeights
from ..checkpoints import Checkpoint, Stored
from ..conversion import LORA, KronSvd, form_of, full, trained_difference
from ..errors import LoKrValueError
from ..matching import Target, resolve, weight_name
from ..names import Slot

# Formats whose readers apply dora_scale as it was trained -> the axes for which they do.
_SAME = {"lycoris": ("out", "in"), "peft": ("out",), "diffusers": ("out",)}


def settle_dora(
    adapter: Adapter, to: str, format: str, target: Target | None, base: Checkpoint | None, notes: list[str]
) -> Adapter:
    """``adapter`` with each DoRA either kept, or replaced by the trained difference.

    to: "lora", "full" or "lokr"; base: the model's tensors, None if they are not at hand; notes: gets what was done

    Raises LoKrValueError if a DoRA cannot be kept and there is no base.
    """
    with_dora = {module: weights for module, weights in adapter.items() if weights.dora_scale is not None}
    if not with_dora:
        return adapter
    lost = {module: _reason(weights, to, format) for module, weights in with_dora.items()}
    lost = {module: reason for module, reason in lost.items() if reason}
    if to == "lokr" and format in ("kohya", "comfyui", "original", "lycoris"):
        notes.append(f"{len(with_dora)} modules keep DoRA; ComfyUI's and A1111's own loaders read it differently")
    if not lost:
        return adapter
    if base is None:
        module, reason = next(iter(lost.items()))
        raise LoKrValueError(
            f"DoRA cannot be kept: {reason}",
            module=module,
            expected="the base model, against which the trained difference is taken",
            found=f"{len(lost)} modules with DoRA",
            hint="give it: --base MODEL",
        )
    notes.append(f"{len(lost)} modules with DoRA: the trained difference was taken against the base model")
    return replace(adapter, modules={**adapter.modules, **_differences(adapter, lost, target, base)})


def _reason(weights: LoKrWeights, to: str, format: str) -> str:
    """Why a module's DoRA cannot be kept, "" if it can."""
    if weights.dora_norm is not None:
        return "its magnitude stands over norms that the file gives, which no other file has"
    if to == "full":
        return "a full difference is added to the weight"
    if to == "lokr":
        return f"{format} reads a LoKr without DoRA" if format in ("peft", "diffusers") else ""
    if weights.dora_axis not in _SAME.get(format, ()):
        return f"programs that read {format} names apply it differently to a LoRA"
    exact = form_of(weights) == LORA or KronSvd.of(weights).rank * 2 <= min(weights.shape[:2])
    return "" if exact else "its norm is that of the whole update, and the LoRA is not all of it"


def _differences(
    adapter: Adapter, modules: Mapping[str, str], target: Target | None, base: Checkpoint
) -> dict[str, LoKrWeights]:
    """The trained differences of ``modules`` on ``base``."""
    stored = base.tensors
    target = target or Target(base.shapes)
    slots: dict[str, list[Slot]] = {}
    for match in resolve(adapter, target)[0]:
        slots.setdefault(match.module, []).append(match.slot)
    found = {}
    for module in modules:
        if module in slots:
            weight = _source_rows(slots[module], stored)
            found[module] = full(trained_difference(adapter[module].fit(tuple(weight.shape)), weight))
    return found


def _source_rows(slots: list[Slot], stored: Mapping[str, Stored]) -> Tensor:
    """The base weight of a module of a file, its rows in the file's order."""
    parts: list[tuple[int, Tensor]] = []
    for slot in slots:
        weight = stored[weight_name(slot)].read()
        rows = weight.narrow(0, *slot.rows) if slot.rows else weight
        rows = rows.roll(len(rows) // 2, 0) if slot.swap else rows
        parts.append((slot.source_rows[0] if slot.source_rows else 0, rows))
    return torch.cat([rows for _, rows in sorted(parts, key=lambda part: part[0])])
