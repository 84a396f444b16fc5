"""All adapter layers of a model at once: switched on and off, merged, replaced by the base's; their parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from ..display import progress_bar
from ..errors import LoKrMatchError
from ..peft import PREFIX, LoKrConfig
from ._modules_to_save import ModulesToSaveWrapper
from ._tuner_layer import TunerLayer

WRAPPERS = (TunerLayer, ModulesToSaveWrapper)


def outer_modules(model: nn.Module, kinds: type | tuple[type, ...]) -> dict[str, nn.Module]:
    """The model's modules by name, without those inside a module of these classes, nor the model itself."""
    found: dict[str, nn.Module] = {}
    inside: str | None = None
    for name, module in model.named_modules():
        if name and (inside is None or not name.startswith(inside)):
            found[name] = module
            inside = name + "." if isinstance(module, kinds) else inside
    return found


def layers_of(model: nn.Module, adapter_name: str) -> Iterator[tuple[str, TunerLayer]]:
    """(path, layer) of the layers that have the adapter."""
    for path, module in model.named_modules():
        if isinstance(module, TunerLayer) and adapter_name in module:
            yield path, module


def lokr_layers(model: nn.Module) -> list[TunerLayer]:
    """The layers with LoKr adapters."""
    return [module for module in model.modules() if isinstance(module, TunerLayer)]


def wrappers(model: nn.Module) -> list[TunerLayer | ModulesToSaveWrapper]:
    """The layers with LoKr adapters and the modules that are trained whole."""
    return [module for module in model.modules() if isinstance(module, WRAPPERS)]


def freeze_all_but(model: nn.Module, trained: Iterable[Tensor]) -> None:
    """Freeze all parameters but ``trained``, which stay as they are."""
    kept = set(map(id, trained))
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in kept and parameter.requires_grad)


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """After the block, restore which wrappers are enabled and which parameters require gradients."""
    with ExitStack() as before:
        for parameter in model.parameters():
            before.callback(parameter.requires_grad_, parameter.requires_grad)
        for module in wrappers(model):
            before.callback(module.enable_adapters, not module.disable_adapters)
        yield


def merge_layers(model: nn.Module, adapter_names: Sequence[str] | None, safe_merge: bool) -> None:
    """Merge adapters into the weights of all layers. If a layer raises, those merged before it are restored."""
    with ExitStack() as undo:
        for layer in lokr_layers(model):
            before = layer.merged
            layer.merge(safe_merge, adapter_names)
            if layer.merged and not before:
                undo.callback(layer.unmerge)
        undo.pop_all()


def take_out(model: nn.Module, adapter_names: Sequence[str] | None, show_progress: bool = False) -> nn.Module:
    """``model`` with its layers replaced by their base layers, with these adapters merged into them (None: none)."""
    found = [(path, module) for path, module in model.named_modules() if isinstance(module, WRAPPERS)]
    with progress_bar("merging", " layers") as show:
        for done, (path, module) in enumerate(found, 1):
            if isinstance(module, ModulesToSaveWrapper):
                replace_module(model, path, module.original_module if adapter_names is None else module.current)
                continue
            if adapter_names is not None:
                module.merge(adapter_names=[name for name in adapter_names if name not in module.merged_adapters])
            replace_module(model, path, module.base_layer)
            if show_progress:
                show(done, len(found))
    return model


def replace_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Replace the module at ``path``."""
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def adapter_parameters(model: nn.Module, adapter_name: str, config: LoKrConfig) -> dict[str, Tensor]:
    """The parameters that an adapter is saved with, by PEFT's keys without the adapter's name."""
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
    """The tensors, detached. Sharded ones are gathered, so every process has to call."""
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
