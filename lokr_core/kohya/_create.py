"""The functions that the trainers call by name: sd-scripts' two and musubi-tuner's two."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from .._files import load_tensors
from ..adapter import Adapter
from ..errors import LoKrMatchError, LoKrValueError, blame
from ..formats import parse_adapter
from ._architectures import architecture_of
from ._arguments import Arguments, parse
from ._module import LoKrModule
from ._network import LoKrNetwork
from ._targets import UNET, Layer, every_layer, text_encoders


def create_network(
    multiplier: float,
    network_dim: int | None,
    network_alpha: float | None,
    vae: Any,
    text_encoder: Any,
    unet: nn.Module,
    **network_args: Any,
) -> LoKrNetwork:
    """A new network for sd-scripts, with LyCORIS' targets and LyCORIS' meaning of ``network_args``.

    text_encoder: one, a list of several, or None

    Raises LoKrValueError, naming it, for an argument that is unknown or cannot be done.
    """
    return LoKrNetwork(text_encoder, unet, parse(network_dim, network_alpha, network_args), multiplier)


def create_network_from_weights(
    multiplier: float,
    file: str | os.PathLike | None,
    vae: Any,
    text_encoder: Any,
    unet: nn.Module,
    weights_sd: Mapping[str, Tensor] | None = None,
    for_inference: bool = False,
    **network_args: Any,
) -> tuple[LoKrNetwork, dict[str, Tensor]]:
    """A network with the factors, ranks and alphas of a file, for ``--dim_from_weights`` and ``--base_weights``.

    network_args: only those about training, such as dropout and learning rates, have an effect

    Returns (network, the file's tensors). Raises LoKrMatchError for a module that the models do not have,
    LoKrValueError if the file holds more than LoKr.
    """
    metadata: dict[str, str] = {}
    if weights_sd is None:
        weights_sd, metadata = load_tensors(file or "")
    with blame(file=file):
        network = _from_tensors(multiplier, weights_sd, metadata, text_encoder, unet, network_args)
    return network, dict(weights_sd)


def create_arch_network(
    multiplier: float,
    network_dim: int | None,
    network_alpha: float | None,
    vae: Any,
    text_encoders: Any,
    unet: nn.Module,
    **network_args: Any,
) -> LoKrNetwork:
    """A new network for musubi-tuner, with its targets and patterns for the architecture of ``unet``.

    With LyCORIS' ``algo`` or ``preset`` among ``network_args`` it is as ``create_network`` makes it.
    """
    if "algo" in network_args or "preset" in network_args:
        return create_network(multiplier, network_dim, network_alpha, vae, None, unet, **network_args)
    row = architecture_of(unet)
    defaults = {"conv_dim": "0", "conv_alpha": "1"}
    arguments = parse(network_dim, 1.0 if network_alpha is None else network_alpha, {**defaults, **network_args})
    preset = replace(arguments.preset, unet_target_module=row.classes, unet_target_name=())
    excluded = (*arguments.excluded, *(re.compile(pattern) for pattern in row.excluded))
    arguments = replace(arguments, preset=preset, excluded=excluded)
    return LoKrNetwork(None, unet, arguments, multiplier, expected_share=True)


def create_arch_network_from_weights(
    multiplier: float,
    weights_sd: Mapping[str, Tensor],
    text_encoders: Any = None,
    unet: nn.Module | None = None,
    for_inference: bool = False,
    **network_args: Any,
) -> LoKrNetwork:
    """A network with the factors, ranks and alphas of a file's tensors, for musubi-tuner's ``--base_weights``."""
    if unet is None:
        raise LoKrValueError("A network needs the model it is for", expected="unet", found="None")
    return _from_tensors(multiplier, weights_sd, {}, None, unet, network_args)


def _from_tensors(
    multiplier: float,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    text_encoder: Any,
    unet: nn.Module,
    network_args: Mapping[str, Any],
) -> LoKrNetwork:
    adapter = parse_adapter(tensors, metadata)
    _refuse_others(adapter)
    arguments = parse(None, None, network_args)
    encoders = {prefix: every_layer(prefix, encoder) for prefix, encoder in text_encoders(text_encoder).items()}
    layers = {**encoders, "": every_layer(UNET, unet)}
    modules = {prefix: _taken(adapter, some, arguments) for prefix, some in layers.items()}
    found = {module.lora_name for some in modules.values() for module in some}
    missing = [name for name in adapter if name not in found]
    if missing:
        raise LoKrMatchError(
            f"{len(missing)} of the file's {len(adapter)} modules are not in this model",
            module=missing[0],
            expected=f"names such as {UNET}_…, each followed by a layer's",
            found=missing[0],
            hint="give the model it was trained on, or convert the names: lokr convert --to lokr --names kohya",
        )
    return LoKrNetwork(text_encoder, unet, arguments, multiplier, modules)


def _taken(adapter: Adapter, layers: Iterable[Layer], arguments: Arguments) -> list[LoKrModule]:
    """The modules of ``adapter`` among ``layers``, with its numbers."""
    config = replace(arguments.config, r=1, dora=None)
    found = []
    for layer in layers:
        if layer.lora_name in adapter:
            module = LoKrModule(layer.lora_name, layer.path, layer.module, config)
            with blame(module=layer.lora_name):
                module.take(adapter[layer.lora_name])
            found.append(module)
    return found


def _refuse_others(adapter: Adapter) -> None:
    """Raises LoKrValueError if the file holds more than LoKr."""
    if adapter.foreign.tensors:
        module, each = next(iter(adapter.foreign.modules.items()), ("", None))
        raise LoKrValueError(
            "The file holds more than LoKr",
            module=module or None,
            found=f"{'unknown' if each is None else each.kind}, {len(adapter.foreign.tensors)} tensors in all",
            hint="merge it into the model first: lokr apply",
        )
