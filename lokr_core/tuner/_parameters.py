"""The parameters of a model that belong to an adapter, under PEFT's keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from ..errors import LoKrMatchError
from ..peft import PREFIX, LoKrConfig
from ._layer import LoKrLayer
from ._modules_to_save import ModulesToSaveWrapper


def adapter_parameters(model: nn.Module, adapter_name: str, config: LoKrConfig) -> dict[str, Tensor]:
    """What is saved of an adapter: PEFT's key, without the adapter's name -> the parameter itself."""
    found: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoKrLayer) and adapter_name in module.shapes:
            for kind in module.adapter_layer_names:
                if adapter_name in getattr(module, kind):
                    found[f"{PREFIX}{name}.{kind}"] = getattr(module, kind)[adapter_name]
            if config.bias == "lokr_only" and module.bias is not None:
                found[f"{PREFIX}{name}.base_layer.bias"] = module.bias
        elif isinstance(module, ModulesToSaveWrapper) and adapter_name in module.modules_to_save:
            saved = module.modules_to_save[adapter_name].state_dict(keep_vars=True)
            found.update({f"{PREFIX}{name}.{key}": tensor for key, tensor in saved.items()})
    if config.bias == "all":
        biases = {n: p for n, p in model.named_parameters() if n == "bias" or n.endswith(".bias")}
        found.update({PREFIX + name: p for name, p in biases.items() if ".modules_to_save." not in name})
    return found


def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors detached, and whole where they are sharded (every process has to call)."""
    detached = {key: tensor.detach() for key, tensor in tensors.items()}
    return {key: t.full_tensor() if hasattr(t, "full_tensor") else t for key, t in detached.items()}


def train_biases(model: nn.Module, configs: Iterable[LoKrConfig]) -> None:
    """Train the biases of the base that the first of ``configs`` with a ``bias`` names."""
    kind = next((config.bias for config in configs if config.bias != "none"), None)
    if kind is None:
        return
    layers = {path for path, module in model.named_modules() if isinstance(module, LoKrLayer)}
    for name, parameter in model.named_parameters():
        path, _, last = name.rpartition(".")
        named = kind == "all" or path.removesuffix(".base_layer") in layers
        if last == "bias" and named and "modules_to_save" not in path and "original_module" not in path:
            parameter.requires_grad_(True)


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
