"""Merge mode in Forge: adapters as patches of its own patchers.

Forge moves, repacks and replaces the weights of a model as memory demands, and its Lora extension patches them, so
nobody else can write to them. What a patcher lists in ``lora_patches``, Forge itself works into the unpatched numbers,
dequantised, when it loads a patcher whose list is another one, and takes out again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from weakref import WeakKeyDictionary, ref

import torch
from backend import utils
from backend.args import dynamic_args
from backend.patcher.lora import extra_weight_calculators, merge_lora_to_weight
from torch import Tensor

from lokr_core import LoKrError, Report
from lokr_core.live import CONV, LINEAR, kind_of
from lokr_core.matching import Match

__all__ = ["ForgeMergeHandle"]

_KIND = "lokr_core"
_UNQUANTISED = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class _Patch:
    """What goes into one weight: (match, strength) pairs, in the order in which they came.

    scale: what the numbers are multiplied by when the layer runs (scaled fp8), where Forge has not done it before
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
    """LoKrError in a fork of Forge that has the table of further kinds, and does not look into it."""
    try:
        merge_lora_to_weight([[1.0, (_KIND, _Patch(())), 1.0, None, None]], torch.zeros(1))
    except Exception as error:
        raise LoKrError("This Forge takes no patches of other kinds than its own", hint="use mode=live") from error


class ForgeMergeHandle:
    """An adapter among the patches of a Forge model. It does what the core's ``MergeHandle`` does.

    owner: Forge's object of the model
    unet, text: the adapter's matches by Forge's names of the weights, in the denoiser and in the text encoders
    factors: a function from the model's module name to the strength
    """

    def __init__(
        self,
        owner,
        report: Report,
        unet: dict[str, list[Match]],
        text: dict[str, list[Match]],
        factors: Callable[[str], float],
    ):
        _check_that_forge_asks()
        self.report, self.unet, self.text = report, unet, text
        self._owner, self._factors = ref(owner), factors
        _publish(owner, [*_merged.get(owner, []), self])

    def strength_of(self, match: Match) -> float:
        return self._factors(match.slot.module)

    def set_strengths(self, factors: Callable[[str], float]) -> None:
        """Other strengths. Forge patches the weights anew when it next runs the model."""
        self._factors = factors
        owner = self._owner()
        if owner is not None:
            _publish(owner, _merged.get(owner, []))

    def remove(self) -> None:
        """Take the adapter out. Forge restores the weights when it next runs the model."""
        owner = self._owner()
        if owner is not None:
            _publish(owner, [handle for handle in _merged.get(owner, []) if handle is not self])

    forget = remove


_merged: WeakKeyDictionary[object, list[ForgeMergeHandle]] = WeakKeyDictionary()


class _Name(str):
    """What Forge calls our patches; it patches the weights anew for another name."""


_numbers = count(1)


def _publish(owner, handles: list[ForgeMergeHandle]) -> None:
    """Have Forge patch the model of ``owner`` with what ``handles`` say, and with nothing else of ours.

    Its Lora extension makes its patchers from the original ones, before or after us, or leaves in force what it made
    for an earlier run: so all of them get ours.
    """
    _merged[owner] = handles
    every = (owner.forge_objects_original, owner.forge_objects_after_applying_lora, owner.forge_objects)
    online = _while_running(owner)
    for name, matches_of in (("unet", lambda handle: handle.unet), ("clip", lambda handle: handle.text)):
        updates = defaultdict(list)
        for handle in handles:
            for weight, matches in matches_of(handle).items():
                updates[weight] += [(match, handle.strength_of(match)) for match in matches]
        new_name = _Name(f"LoKr {next(_numbers)}")
        # Objects that shared a patcher go on sharing one: by that Forge knows what it has loaded.
        new = {held: _with_ours(held, new_name, updates, online) for held in {getattr(each, name) for each in every}}
        for each in every:
            setattr(each, name, new[getattr(each, name)])


def _while_running(owner) -> bool:
    """Whether the user has quantised weights patched each time that a layer runs ("fp16 LoRA"), and not once."""
    return dynamic_args.get("online_lora", False) and owner.forge_objects.unet.model.storage_dtype not in _UNQUANTISED


def _with_ours(held, name: _Name, updates: dict[str, list[tuple[Match, float]]], online: bool):
    """``held`` (a UnetPatcher or a CLIP) with these updates of ours; itself where it has them already."""
    once, running = {}, {}
    for weight, pairs in updates.items():
        layer = utils.get_attr(_patcher(held).model, weight.rpartition(".")[0])
        if online and kind_of(layer) in (LINEAR, CONV):  # other layers do not look for patches
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
