"""Merge mode in Forge: adapters as patches of its own patchers.

Forge moves, repacks and replaces the weights of a model as memory demands, and its Lora extension patches them, so
nobody else can write to them. What a patcher lists in ``lora_patches``, Forge itself works into the unpatched numbers,
dequantised, when it loads a patcher whose list is another one, and takes out again.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from backend import utils
from backend.args import dynamic_args
from backend.patcher.lora import extra_weight_calculators, merge_lora_to_weight
from torch import Tensor

from lokr_core.errors import LoKrError
from lokr_core.handle import Factors, WeightsHandle
from lokr_core.live import CONVOLUTION, LINEAR, kind_of
from lokr_core.matching import Match, Report

_KIND = "lokr_core"
_UNQUANTISED = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class _Patch:
    """What goes into one weight: (match, strength) pairs, in the order in which they came.

    scale: what the layer multiplies its weight by when it runs (scaled fp8), if Forge has not done so before patching
    """

    updates: tuple[tuple[Match, float], ...]
    scale: float = 1.0

    def add_to_(self, weight: Tensor) -> Tensor:
        if self.scale != 1:
            weight *= self.scale
        # Ours is the first patch in Forge's list, so these are the unpatched numbers.
        base = weight.clone() if len(self.updates) > 1 and any(match.needs_base for match, _ in self.updates) else None
        for match, strength in self.updates:
            match.add_to_(weight, strength, base)
        if self.scale != 1:
            weight /= self.scale
        return weight


# Forge's interface for further kinds of patches: (a copy of the weight, a strength that we leave at 1, the patch).
extra_weight_calculators[_KIND] = lambda weight, _strength, patch: patch.add_to_(weight)


def _check_that_forge_asks() -> None:
    """Raises LoKrError in a fork of Forge that has the table of further kinds and does not use it."""
    try:
        merge_lora_to_weight([[1.0, (_KIND, _Patch(())), 1.0, None, None]], torch.zeros(1))
    except Exception as error:
        raise LoKrError("This Forge does not support patches of further kinds", hint="use mode=live") from error


class ForgeMergeHandle(WeightsHandle):
    """An adapter among the patches of a Forge model (see ``Handle``). Forge patches the weights when it next runs it.

    owner: Forge's object of the model
    unet, text: the adapter's matches by Forge's names of the weights, in the denoiser and in the text encoders
    """

    def __init__(
        self,
        owner: Any,
        report: Report,
        unet: dict[str, list[Match]],
        text: dict[str, list[Match]],
        strength: float = 1.0,
        factors: Factors = None,
    ):
        _check_that_forge_asks()
        super().__init__(
            report, (match for held in (unet, text) for found in held.values() for match in found), strength, factors
        )
        self.unet, self.text, self._owner = unet, text, ref(owner)
        _publish(owner, [*_merged.get(owner, []), self])

    def _refresh(self, matches: list[Match]) -> None:
        owner = self._owner()
        if owner is not None:
            _publish(owner, _merged.get(owner, []))

    def remove(self) -> None:
        """Take the adapter out. Calling it again does nothing."""
        self._removed, self._matches = True, []
        owner = self._owner()
        if owner is not None:
            _publish(owner, [handle for handle in _merged.get(owner, []) if handle is not self])


_merged: WeakKeyDictionary[object, list[ForgeMergeHandle]] = WeakKeyDictionary()


class _Name(str):
    """The name of our patches in Forge's list; Forge patches the weights anew when a name changes."""


_numbers = count(1)


def _publish(owner, handles: list[ForgeMergeHandle]) -> None:
    """Have Forge patch the model of ``owner`` with the updates of ``handles``, and with nothing else of ours.

    Forge's Lora extension makes its patchers from the original ones, before or after us, or leaves those of an earlier
    run in force: so all of them get ours.
    """
    _merged[owner] = handles
    every = (owner.forge_objects_original, owner.forge_objects_after_applying_lora, owner.forge_objects)
    online = _while_running(owner)
    for name, matches_of in (("unet", lambda handle: handle.unet), ("clip", lambda handle: handle.text)):
        updates = defaultdict(list)
        for handle in handles:
            for weight, matches in matches_of(handle).items():
                strengths = ((match, handle.strength_of(match)) for match in matches)
                # A weight without updates is restored bit for bit; a patch of strength 0 would round it.
                updates[weight] += [(match, strength) for match, strength in strengths if strength != 0]
        new_name = _Name(f"LoKr {next(_numbers)}")
        # Objects that shared a patcher go on sharing one: by that Forge knows what it has loaded.
        new = {held: _with_ours(held, new_name, updates, online) for held in {getattr(each, name) for each in every}}
        for each in every:
            setattr(each, name, new[getattr(each, name)])


def _while_running(owner) -> bool:
    """Whether Forge patches quantised weights each time that a layer runs ("fp16 LoRA"), not once."""
    return dynamic_args.get("online_lora", False) and owner.forge_objects.unet.model.storage_dtype not in _UNQUANTISED


def _with_ours(held, name: _Name, updates: dict[str, list[tuple[Match, float]]], online: bool):
    """``held`` (a UnetPatcher or a CLIP) with these updates of ours; itself if it has them already."""
    once, running = {}, {}
    for weight, pairs in updates.items():
        if not pairs:
            continue
        layer = utils.get_attr(_patcher(held).model, weight.rpartition(".")[0])
        if online and kind_of(layer) in (LINEAR, CONVOLUTION):  # other layers do not look for patches
            running[weight] = (_KIND, _Patch(tuple(pairs)))
        else:
            scale = getattr(layer, "scale_weight", None) if weight.endswith(".weight") else None
            once[weight] = (_KIND, _Patch(tuple(pairs), 1.0 if scale is None else float(scale)))
    before = _patcher(held).lora_patches
    ours = {key: patches for key, patches in before.items() if isinstance(key[0], _Name)}
    if {weight: entry[1] for patches in ours.values() for weight, (entry,) in patches.items()} == once | running:
        return held
    held = held.clone()
    _patcher(held).lora_patches = {}
    for patches, while_running in ((once, False), (running, True)):
        if patches:
            held.add_patches(filename=name, patches=patches, online_mode=while_running)
    _patcher(held).lora_patches |= {key: patches for key, patches in before.items() if key not in ours}
    return held


def _patcher(held):
    """The patcher of what Forge's objects hold: of a UNet itself, of a CLIP another object."""
    return getattr(held, "patcher", held)
