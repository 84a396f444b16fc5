"""Which layers of a model get an adapter, under which names, and with which configuration."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from torch import nn

from ..peft import LoKrConfig
from ._arguments import Arguments, overridden
from ._presets import Preset

UNET, TEXT_ENCODER = "lora_unet", "lora_te"
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_OF_THE_LLM_ADAPTER = "LLMAdapterTransformerBlock"


class Layer(NamedTuple):
    """A layer: its name in a file and in its model, and the preset's options for it."""

    lora_name: str
    path: str
    module: nn.Module
    options: Mapping[str, Any]


def text_encoders(given: Any) -> dict[str, nn.Module]:
    """The text encoders by the prefix of their names in files: one has no number, those of a list have."""
    if not isinstance(given, (list, tuple)):
        return {} if given is None else {TEXT_ENCODER: given}
    return {f"{TEXT_ENCODER}{i}": encoder for i, encoder in enumerate(given, 1) if encoder is not None}


def unet_layers(unet: nn.Module, arguments: Arguments) -> Iterator[Layer]:
    """The layers of the denoiser that ``arguments`` mean."""
    preset = arguments.preset
    classes = preset.unet_target_module
    if classes is not None and not arguments.train_llm_adapter:
        classes = [each for each in classes if each != _OF_THE_LLM_ADAPTER]
    return _layers(UNET, unet, classes, preset.unet_target_name, preset)


def text_encoder_layers(prefix: str, encoder: nn.Module, arguments: Arguments) -> Iterator[Layer]:
    """The layers of a text encoder that ``arguments`` mean."""
    preset = arguments.preset
    return _layers(prefix, encoder, preset.text_encoder_target_module, preset.text_encoder_target_name, preset)


def every_layer(prefix: str, model: nn.Module) -> Iterator[Layer]:
    """All layers that can have an adapter."""
    return _inside(prefix, "", model, {}, Preset(), set())


def _layers(
    prefix: str, model: nn.Module, classes: Collection[str] | None, names: Collection[str], preset: Preset
) -> Iterator[Layer]:
    if classes is None:
        yield from _inside(prefix, "", model, {}, preset, set())
        return
    seen: set[nn.Module] = set()
    for path, module in model.named_modules():
        if _excluded(path, preset):
            continue
        of_class = preset.module_algo_map.get(type(module).__name__, {})
        if preset.among(path, names):
            named = preset.of_name(path)
            if _can_adapt(module) and module not in seen:
                seen.add(module)
                options = of_class if named is None else named
                yield Layer(_flattened(f"{prefix}.{path}"), path, module, options)
        elif type(module).__name__ in classes:
            yield from _inside(f"{prefix}_{path}", path, module, of_class, preset, seen)


def _inside(
    name: str, path: str, module: nn.Module, options: Mapping[str, Any], preset: Preset, seen: set[nn.Module]
) -> Iterator[Layer]:
    """The layers in ``module``, itself among them; ``seen``: to be left out, added to."""
    if module in seen:
        return
    if _can_adapt(module):
        seen.add(module)
        if not _excluded(path, preset):
            yield Layer(_flattened(name), path, module, options)
    for child_name, child in module.named_children():
        child_path = f"{path}.{child_name}" if path else child_name
        own = preset.module_algo_map.get(type(child).__name__, options)
        yield from _inside(f"{name}.{child_name}", child_path, child, own, preset, seen)


def _flattened(name: str) -> str:
    return name.replace(".", "_")


def _excluded(path: str, preset: Preset) -> bool:
    return bool(path) and preset.among(path, preset.exclude_name)


def _can_adapt(module: nn.Module) -> bool:
    # LyCORIS' trainers have an fp8 Linear that is none of torch's.
    return isinstance(module, (nn.Linear, *_CONVOLUTIONS)) or type(module).__name__ == "Fp8Linear"


def config_of(layer: Layer, arguments: Arguments) -> LoKrConfig | None:
    """The configuration of a layer's adapter, None if ``arguments`` leave it out."""
    path, module = layer.path, layer.module
    excluded = any(pattern.fullmatch(path) for pattern in arguments.excluded)
    if excluded and not any(pattern.fullmatch(path) for pattern in arguments.included):
        return None
    config = overridden(arguments.config, layer.options)
    asked = next((dim for pattern, dim in (arguments.reg_dims or {}).items() if pattern.fullmatch(path)), None)
    if asked is None and isinstance(module, _CONVOLUTIONS) and module.kernel_size[0] != 1:
        dim = layer.options.get("dim") or arguments.conv_dim
        alpha = layer.options.get("alpha") or arguments.conv_alpha
        return replace(config, r=dim, alpha=alpha) if dim > 0 else None
    if asked is None:
        return config
    return replace(config, r=asked) if asked > 0 else None
