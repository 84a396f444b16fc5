"""Forge Neo: its own class of patches, packed weights that it patches each time that a layer runs, and Anima's adapter
of texts, which it keeps in the text encoder.
"""

from __future__ import annotations

from typing import Any

from backend import memory_management
from backend.args import dynamic_args
from backend.operations_gguf import dequantize_tensor
from modules_forge.packages.comfy.weight_adapter.base import WeightAdapterBase
from torch import Tensor, nn

from .host import Watcher
from .patched import TEXT, UNET, PatchedModel, is_packed, report_unloading
from .weight_patches import WeightPatch, WeightPatchesHost

# Anima's adapter, as files name it, and where it is here.
_ADAPTER, _HOLDER = f"{UNET}diffusion_model.llm_adapter.", "qwen3_06b"


class _NeoPatch(WeightPatch, WeightAdapterBase):
    """See ``WeightPatch``."""


class NeoModel(PatchedModel):
    """See ``PatchedModel``. The adapter runs with the text encoder, so it has that one's strength."""

    def is_unet(self, module: str) -> bool:
        return super().is_unet(module) and not f"{module}.".startswith(_ADAPTER)


class ForgeNeo(WeightPatchesHost):
    """See ``Host``."""

    patch = _NeoPatch

    def model(self, owner: Any = None) -> PatchedModel | None:
        found = super().model(owner)
        texts = None if found is None else found.root._modules.get(TEXT.rstrip("."))
        adapter = getattr(getattr(texts, _HOLDER, None), "llm_adapter", None)
        if adapter is None:
            return found
        found.root.add_module(UNET.rstrip("."), _with_adapter(found.root.model.diffusion_model, adapter))
        return NeoModel(found.owner, found.root, found.unet, found.text)

    def home_of(self, weight: str) -> tuple[bool, str]:
        if weight.startswith(_ADAPTER):
            return False, f"{_HOLDER}.llm_adapter.{weight.removeprefix(_ADAPTER)}"
        return super().home_of(weight)

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


def _with_adapter(denoiser: nn.Module, adapter: nn.Module) -> nn.Module:
    """A module that shows ``denoiser``, which stays as it is, with the adapter in it."""
    shown, around = nn.Module(), nn.Module()
    shown._modules = {**denoiser._modules, "llm_adapter": adapter}
    shown._parameters, shown._buffers = denoiser._parameters, denoiser._buffers
    around.add_module("diffusion_model", shown)
    return around


HOST = ForgeNeo()
