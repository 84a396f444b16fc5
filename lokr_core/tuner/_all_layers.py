"""All adapter layers of a model at once: switched on and off, merged, replaced by the base's layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from ..display import progress_bar
from ._layer import LoKrLayer
from ._modules_to_save import ModulesToSaveWrapper

WRAPPERS = (LoKrLayer, ModulesToSaveWrapper)


def outer_modules(model: nn.Module, kinds: type | tuple[type, ...]) -> dict[str, nn.Module]:
    """The model's modules by name, without those inside a module of these classes, nor the model itself."""
    found: dict[str, nn.Module] = {}
    inside: str | None = None
    for name, module in model.named_modules():
        if name and (inside is None or not name.startswith(inside)):
            found[name] = module
            inside = name + "." if isinstance(module, kinds) else inside
    return found


def layers_of(model: nn.Module, adapter_name: str) -> Iterator[tuple[str, LoKrLayer]]:
    """(path, layer) of the layers that have the adapter."""
    for path, module in model.named_modules():
        if isinstance(module, LoKrLayer) and adapter_name in module:
            yield path, module


def lokr_layers(model: nn.Module) -> list[LoKrLayer]:
    """The layers with LoKr adapters."""
    return [module for module in model.modules() if isinstance(module, LoKrLayer)]


def wrappers(model: nn.Module) -> list[LoKrLayer | ModulesToSaveWrapper]:
    """The layers with LoKr adapters and the modules that are trained whole."""
    return [module for module in model.modules() if isinstance(module, WRAPPERS)]


def freeze_all_but(model: nn.Module, trained: Iterable[Tensor]) -> None:
    """Freeze all parameters but ``trained``, which stay as they are."""
    kept = set(map(id, trained))
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in kept and parameter.requires_grad)


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Afterwards, restore what is switched on, and which parameters are trained."""
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
    """``model`` with the layers replaced by their base layers, after merging the adapters; None: merge nothing."""
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
