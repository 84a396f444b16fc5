"""Adding an adapter to a model's layers: planned and checked first, then done."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import LoKrValueError
from ..peft import PREFIX, LoKrConfig, matching_keys, names_module
from ._all_layers import WRAPPERS, freeze_all_but, layers_of, outer_modules, replace_module, wrappers
from ._layer import LoKrLayer, wrap
from ._modules_to_save import ModulesToSaveWrapper
from ._parameters import adapter_parameters, check_fits
from ._shapes import AdapterShapes


@dataclass(frozen=True)
class _Target:
    """A layer that gets an adapter, and the adapter's numbers and shapes."""

    layer: LoKrLayer
    r: int
    alpha: float
    shapes: AdapterShapes


def inject(
    model: nn.Module,
    name: str,
    config: LoKrConfig,
    modules: Mapping[str, nn.Module],
    *,
    tensors: Mapping[str, Tensor] | None = None,
    file: object = None,
    fp32: bool = False,
    on_meta: bool = False,
) -> None:
    """Add the adapter ``name`` to ``model``, in place.

    modules: to adapt, by path
    tensors: the values, by PEFT's keys, read from ``file``; None: initial values
    fp32: use fp32 for parameters that would be fp16 or bf16; on_meta: create them on the meta device

    The first adapter freezes the model's own parameters. Raises, with the model unchanged, LoKrMatchError if the
    tensors do not fit, and LoKrValueError for a name that is taken or has a dot.
    """
    if not name or "." in name:
        raise LoKrValueError(
            "An adapter's name is part of its parameters' names", expected="a name without dots", found=repr(name)
        )
    if any(layers_of(model, name)):
        raise LoKrValueError(f"There is an adapter {name!r} already", hint="choose another name, or delete it")
    plan = _plan(modules, config, tensors or {})
    saved = _modules_to_save(model, config)
    if tensors is not None:
        check_fits(tensors, _expected(model, plan, saved, config), file)
    if any(target.alpha == 0 for target in plan.values()):
        warnings.warn("alpha is 0: the adapter changes nothing, and its factors get no gradients", stacklevel=4)

    first = not wrappers(model)
    device = torch.device("meta") if on_meta or tensors is not None else None
    for path, target in plan.items():
        replace_module(model, path, target.layer)
        target.layer.update_layer(name, target.r, target.alpha, config, device=device, fp32=fp32)
    for path, module in saved.items():
        if isinstance(module, ModulesToSaveWrapper):
            module.update(name)
        else:
            replace_module(model, path, ModulesToSaveWrapper(module, name).train(module.training))
    if tensors is not None:
        _load(model, name, config, tensors)
    if first:
        freeze_all_but(model, adapter_parameters(model, name, config).values())


def _plan(modules: Mapping[str, nn.Module], config: LoKrConfig, tensors: Mapping[str, Tensor]) -> dict[str, _Target]:
    """The layers to adapt, by path; ``tensors``: a file's."""
    # The first axis of b is the rank, in either low-rank form.
    named = {key.removeprefix(PREFIX).rpartition("."): tensor for key, tensor in tensors.items()}
    ranks = {path: b.shape[0] for (path, _, kind), b in named.items() if kind in ("lokr_w1_b", "lokr_w2_b")}
    plan = {}
    for path, module in modules.items():
        key = config.rank_key(path, ranks.get(path))
        r = config.r if key is None else config.rank_pattern[key]
        alpha = next((config.alpha_pattern[key] for key in matching_keys(config.alpha_pattern, path)), config.alpha)
        layer = module if isinstance(module, LoKrLayer) else wrap(module)
        plan[path] = _Target(layer, r, alpha, AdapterShapes.of(layer.get_base_layer(), config, r))
    return plan


def _modules_to_save(model: nn.Module, config: LoKrConfig) -> dict[str, nn.Module]:
    """The modules of the model that ``modules_to_save`` names, by name."""
    wanted = config.modules_to_save or ()
    named = {name: m for name, m in outer_modules(model, WRAPPERS).items() if names_module(wanted, name)}
    missing = [name for name in wanted if not any(names_module([name], n) for n in named)]
    if missing and config.task_type is None:  # a task's heads are names that a model may have
        raise LoKrValueError("modules_to_save names no module of the model", found=", ".join(missing))
    return named


def _expected(
    model: nn.Module, plan: Mapping[str, _Target], saved: Mapping[str, nn.Module], config: LoKrConfig
) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in a file of such an adapter, by key."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path, target in plan.items():
        shapes |= {f"{path}.{kind}": shape for kind, shape in target.shapes.tensors.items()}
        if config.dora is not None:
            at = 0 if config.dora == "out" else 1
            shapes[f"{path}.dora_scale"] = tuple(d if i == at else 1 for i, d in enumerate(target.layer.weight.shape))
    for path, module in saved.items():
        original = module.original_module if isinstance(module, ModulesToSaveWrapper) else module
        shapes |= {f"{path}.{key}": tuple(tensor.shape) for key, tensor in original.state_dict().items()}
    for name, parameter in model.named_parameters():
        path, _, last = name.rpartition(".")
        if config.bias == "none" or last != "bias" or ".modules_to_save." in name or ".original_module." in name:
            continue
        if path in plan:
            shapes[f"{path}.base_layer.bias"] = tuple(parameter.shape)
        elif config.bias == "all" and not any(path == n or path.startswith(n + ".") for n in saved):
            shapes[name] = tuple(parameter.shape)
    return {PREFIX + key: shape for key, shape in shapes.items()}


@torch.no_grad()
def _load(model: nn.Module, name: str, config: LoKrConfig, tensors: Mapping[str, Tensor]) -> None:
    for path, layer in layers_of(model, name):
        layer.load_adapter(name, {kind: tensors.get(f"{PREFIX}{path}.{kind}") for kind in layer.adapter_layer_names})
    for key, tensor in adapter_parameters(model, name, config).items():
        if key.rpartition(".")[2] not in LoKrLayer.adapter_layer_names:
            tensor.copy_(tensors[key])
