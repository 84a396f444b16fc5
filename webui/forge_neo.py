"""Forge Neo: its own class of patches, and packed weights that it patches each time that a layer runs."""

from __future__ import annotations

from backend import memory_management
from backend.args import dynamic_args
from backend.operations_gguf import dequantize_tensor
from modules_forge.packages.comfy.weight_adapter.base import WeightAdapterBase
from torch import Tensor, nn

from .host import Watcher
from .patched import is_packed, report_unloading
from .weight_patches import WeightPatch, WeightPatchesHost


class _NeoPatch(WeightPatch, WeightAdapterBase):
    """See ``WeightPatch``."""


class ForgeNeo(WeightPatchesHost):
    """See ``Host``."""

    patch = _NeoPatch

    def unpacked(self, module: nn.Module, weight: Tensor) -> Tensor:
        if hasattr(weight, "bnb_quantized"):
            from backend.operations_bnb import functional_dequantize_4bit  # absent without bitsandbytes

            return functional_dequantize_4bit(weight)
        return super().unpacked(module, dequantize_tensor(weight))

    def entry(self, model: nn.Module, weight: str, patch: WeightPatch) -> tuple:
        layer, _, name = weight.rpartition(".")
        held = model.get_submodule(layer)
        # Packed weights are not repacked: such a layer unpacks and patches its weight each time that it runs.
        online = dynamic_args.online_lora or is_packed(getattr(held, name))
        return (*super().entry(model, weight, patch), bool(online and hasattr(held, "weight_function")))

    def watch(self, watcher: Watcher) -> None:
        report_unloading(memory_management, watcher)


HOST = ForgeNeo()
