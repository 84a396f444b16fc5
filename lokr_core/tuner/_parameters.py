"""The parameters of a model that belong to an adapter, under PEFT's keys."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ..errors import LoKrMatchError
from ..peft import PREFIX, LoKrConfig
from ._all_layers import WRAPPERS, layers_of


def adapter_parameters(model: nn.Module, adapter_name: str, config: LoKrConfig) -> dict[str, Tensor]:
    """What is saved of an adapter: PEFT's key, without the adapter's name -> the parameter itself."""
    found: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        if isinstance(module, WRAPPERS) and adapter_name in module:
            found |= {f"{path}.{name}": tensor for name, tensor in module.adapter_tensors(adapter_name).items()}
    found |= base_biases(model, adapter_name, config)
    return {PREFIX + name: tensor for name, tensor in found.items()}


def base_biases(model: nn.Module, adapter_name: str, config: LoKrConfig) -> dict[str, Tensor]:
    """The biases of the base that are trained and saved with an adapter, by name."""
    if config.bias == "none":
        return {}
    if config.bias == "lokr_only":
        biases = {f"{path}.base_layer.bias": layer.bias for path, layer in layers_of(model, adapter_name)}
        return {name: bias for name, bias in biases.items() if bias is not None}
    whole = {"modules_to_save", "original_module"}
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.rpartition(".")[2] == "bias" and whole.isdisjoint(name.split("."))
    }


def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors detached, and whole where they are sharded (every process has to call)."""
    detached = {key: tensor.detach() for key, tensor in tensors.items()}
    return {key: t.full_tensor() if hasattr(t, "full_tensor") else t for key, t in detached.items()}


def check_fits(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], file: object) -> None:
    """Raises LoKrMatchError if names or shapes of a file's tensors differ from those that an adapter would have."""
    missing, strange = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    wrong = [key for key in sorted(set(expected) & set(tensors)) if tuple(tensors[key].shape) != expected[key]]
    if not (missing or strange or wrong):
        return
    kinds = {"tensors are missing": missing, "belong to no target": strange, "are of another shape": wrong}
    problems = [f"{len(keys)} {what}, such as {keys[0]}" for what, keys in kinds.items() if keys]
    first = wrong[0] if wrong else (missing or strange)[0]
    raise LoKrMatchError(
        "The adapter does not fit this model: " + "; ".join(problems),
        file=file,
        module=first.removeprefix(PREFIX).rpartition(".")[0],
        expected=expected.get(first, "no such tensor"),
        found=tuple(tensors[first].shape) if first in tensors else "no such tensor",
        hint="load it onto the model that it was trained on; the model is unchanged",
    )
