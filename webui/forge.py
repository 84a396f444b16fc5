"""Forge: its patchers list patches in ``lora_patches``, by the name of a file, and take patches of further kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import torch
from backend import memory_management, operations, utils
from backend.args import dynamic_args
from backend.operations_gguf import dequantize_tensor
from backend.patcher.lora import extra_weight_calculators, merge_lora_to_weight
from torch import Tensor, nn

from lokr_core.adapter import Adapter
from lokr_core.errors import LoKrError
from lokr_core.handle import Handle
from lokr_core.live import CONVOLUTION, LINEAR, kind_of

from .host import HostModel, Watcher
from .patched import PatchedHost, report_unloading
from .patches import Pairs, Updates, patcher_of

_KIND = "lokr_core"
_UNQUANTISED = (torch.float32, torch.float16, torch.bfloat16)

# Forge's interface for further kinds of patches: (a copy of the weight, a strength that we leave at 1, the patch).
extra_weight_calculators[_KIND] = lambda weight, _strength, patch: patch.add_to_(weight)


class _Name(str):
    """The name of our patches in Forge's list; Forge patches the weights anew when a name changes."""


_numbers = count(1)


class Forge(PatchedHost):
    """See ``Host``."""

    def unpatched(self, patcher: Any) -> Mapping[str, Tensor]:
        return patcher.model.lora_loader.backup

    def unpacked(self, module: nn.Module, weight: Tensor) -> Tensor:
        packed = hasattr(weight, "bnb_quantized")
        weight = operations.functional_dequantize_4bit(weight) if packed else dequantize_tensor(weight)
        scale = getattr(module, "scale_weight", None)
        return weight if scale is None else weight.float() * scale.to(weight.device)

    def merge(self, model: HostModel, adapter: Adapter, factors: Callable[[str], float]) -> Handle:
        _check_that_forge_asks()
        return super().merge(model, adapter, factors)

    def patching(self, owner: Any, updates: dict[str, Pairs]) -> Callable[[Any], Any]:
        name, online = _Name(f"LoKr {next(_numbers)}"), _while_running(owner)

        def patched(held: Any) -> Any:
            once, running = _split(patcher_of(held).model, updates, online)
            before = patcher_of(held).lora_patches
            ours = {key: found for key, found in before.items() if isinstance(key[0], _Name)}
            if {weight: entry[1] for found in ours.values() for weight, (entry,) in found.items()} == once | running:
                return held
            held = held.clone()
            patcher_of(held).lora_patches = {}
            for new, while_running in ((once, False), (running, True)):
                if new:
                    held.add_patches(filename=name, patches=new, online_mode=while_running)
            patcher_of(held).lora_patches |= {key: found for key, found in before.items() if key not in ours}
            return held

        return patched

    def watch(self, watcher: Watcher) -> None:
        report_unloading(memory_management, watcher)


def _while_running(owner: Any) -> bool:
    """Whether Forge patches quantised weights each time that a layer runs ("fp16 LoRA"), not once."""
    return dynamic_args.get("online_lora", False) and owner.forge_objects.unet.model.storage_dtype not in _UNQUANTISED


def _split(model: nn.Module, updates: dict[str, Pairs], online: bool) -> tuple[dict, dict]:
    """The patches for Forge to work in once, and those for it to work in each time that the layer runs."""
    once, running = {}, {}
    for weight, pairs in updates.items():
        layer = utils.get_attr(model, weight.rpartition(".")[0])
        if online and kind_of(layer) in (LINEAR, CONVOLUTION):  # other layers do not look for patches
            running[weight] = (_KIND, Updates(pairs))
        else:
            scale = getattr(layer, "scale_weight", None) if weight.endswith(".weight") else None
            once[weight] = (_KIND, Updates(pairs, 1.0 if scale is None else float(scale)))
    return once, running


def _check_that_forge_asks() -> None:
    """Raises LoKrError in a fork of Forge that has the table of further kinds and does not use it."""
    try:
        merge_lora_to_weight([[1.0, (_KIND, Updates(())), 1.0, None, None]], torch.zeros(1))
    except Exception as error:
        raise LoKrError("This Forge does not support patches of further kinds", hint="use mode=live") from error


HOST = Forge()
