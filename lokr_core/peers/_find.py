"""The LoKr layers of a model or of a network beside it, the layers that they adapt, and whose they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from ..trainable import FACTORS
from ._forward import FastForward
from ._kohya import KohyaForward, ToolkitForward
from ._lycoris import LycorisForward
from ._peft import PeftForward

# The lists in which LyCORIS, sd-scripts, musubi-tuner and ai-toolkit hold their layers before they are applied.
_LISTS = ("loras", "text_encoder_loras", "unet_loras")


def lokr_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The LoKr layers by name: those inside ``model``, and those beside it whose forward a layer of it has taken."""
    found: dict[int, tuple[str, nn.Module]] = {}
    for name, module in model.named_modules():
        if is_lokr(module):
            found.setdefault(id(module), (name, module))
        for wrapper in _wrappers(module):
            found.setdefault(id(wrapper), (name, wrapper))
        for place in _LISTS:
            for held in listed if isinstance(listed := vars(module).get(place), list) else ():
                if isinstance(held, nn.Module) and is_lokr(held):
                    found.setdefault(id(held), (str(getattr(held, "lora_name", name)), held))
    layers: dict[str, nn.Module] = {}
    for name, layer in found.values():  # several adapters may share a layer of the model
        layers[name if name not in layers else f"{name} ({len(layers)})"] = layer
    return layers


def is_lokr(module: nn.Module) -> bool:
    """Whether it holds factors, as parameters or in dictionaries by adapter, that are not this library's own."""
    held = not module._parameters.keys().isdisjoint(FACTORS) or not module._modules.keys().isdisjoint(FACTORS)
    return held and not hasattr(type(module), "lokr_weights")


def _wrappers(module: nn.Module) -> Iterator[nn.Module]:
    """The LoKr layers that have taken the forward of ``module``, the outermost first."""
    forward = vars(module).get("forward")
    while (owner := owner_of(forward)) is not None and is_lokr(owner):
        yield owner
        forward = vars(owner).get("org_forward")


def owner_of(forward: object) -> nn.Module | None:
    """The layer whose forward a bound method is, its own or the one in its place."""
    owner = getattr(forward, "__self__", None)
    return owner.layer if isinstance(owner, FastForward) else owner if isinstance(owner, nn.Module) else None


def base_of(layer: Any) -> nn.Module | None:
    """The layer that a LoKr layer adapts; None if it does not show it."""
    base = layer.get_base_layer() if hasattr(layer, "get_base_layer") else getattr(layer, "org_module", None)
    if isinstance(base, (list, tuple)) and base:
        base = base[0]
    forward = getattr(layer, "org_forward", None)
    while base is None and forward is not None:
        owner = owner_of(forward)
        base, forward = (None, vars(owner).get("org_forward")) if owner and is_lokr(owner) else (owner, None)
    return base if isinstance(base, nn.Module) else None


def family_of(layer: nn.Module) -> type[FastForward] | None:
    """What computes a layer of this class; None if the class is unknown."""
    forward = getattr(type(layer), "forward", None)
    where = getattr(forward, "__module__", "")
    if not layer._modules.keys().isdisjoint(FACTORS):
        return PeftForward if where.startswith("peft.") else None
    if where.startswith("lycoris."):
        return LycorisForward
    if hasattr(layer, "network_ref"):
        return ToolkitForward if hasattr(layer, "scale") else None
    return KohyaForward if hasattr(layer, "scale") and hasattr(layer, "multiplier") else None
