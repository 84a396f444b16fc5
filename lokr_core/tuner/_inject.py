"""Adding an adapter to a model's layers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from ..errors import LoKrValueError
from ..peft import PREFIX, LoKrConfig, matching_keys, names_module
from ._all_layers import (
    WRAPPERS,
    adapter_parameters,
    check_fits,
    freeze_all_but,
    layers_of,
    outer_modules,
    replace_module,
    wrappers,
)
from ._layer import LoKrLayer, wrap
from ._modules_to_save import ModulesToSaveWrapper


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
    saved = _modules_to_save(model, config)
    first = not wrappers(model)
    device = torch.device("meta") if on_meta or tensors is not None else None
    ranks = _ranks(tensors or {})
    with _undo(model, name, {**modules, **saved}) as undo:
        for path, module in modules.items():
            layer = module if isinstance(module, LoKrLayer) else wrap(module)
            replace_module(model, path, layer)
            r, _ = config.module_rank(path, ranks.get(path))
            alpha = next((config.alpha_pattern[k] for k in matching_keys(config.alpha_pattern, path)), config.alpha)
            layer.update_layer(name, r, alpha, config, device=device, fp32=fp32)
        for path, module in saved.items():
            if isinstance(module, ModulesToSaveWrapper):
                module.update(name)
            else:
                replace_module(model, path, ModulesToSaveWrapper(module, name).train(module.training))
        if tensors is not None:
            _load(model, name, config, tensors, file)
        if any(layer.alpha[name] == 0 for _, layer in layers_of(model, name)):
            warnings.warn("alpha is 0: the adapter changes nothing, and its factors get no gradients", stacklevel=4)
        undo.pop_all()
    if first:
        freeze_all_but(model, adapter_parameters(model, name, config).values())


def _undo(model: nn.Module, name: str, modules: Mapping[str, nn.Module]) -> ExitStack:
    """When closed, puts ``modules`` back without the adapter, and restores which parameters require gradients."""
    undo = ExitStack()
    for parameter in model.parameters():
        undo.callback(parameter.requires_grad_, parameter.requires_grad)
    for path, module in modules.items():
        undo.callback(replace_module, model, path, module)
        if isinstance(module, WRAPPERS):
            undo.callback(module.delete_adapter, name)
    return undo


def _ranks(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The rank of a file's low-rank factors, by the layer's path."""
    # The first axis of b is the rank, in either low-rank form.
    named = {key.removeprefix(PREFIX).rpartition("."): tensor for key, tensor in tensors.items()}
    return {path: b.shape[0] for (path, _, kind), b in named.items() if kind in ("lokr_w1_b", "lokr_w2_b")}


def _modules_to_save(model: nn.Module, config: LoKrConfig) -> dict[str, nn.Module]:
    """The modules of the model that ``modules_to_save`` names, by name."""
    wanted = config.modules_to_save or ()
    named = {name: m for name, m in outer_modules(model, WRAPPERS).items() if names_module(wanted, name)}
    missing = [name for name in wanted if not any(names_module([name], n) for n in named)]
    if missing and config.task_type is None:  # a task's heads are names that a model may have
        raise LoKrValueError("modules_to_save names no module of the model", found=", ".join(missing))
    return named


@torch.no_grad()
def _load(model: nn.Module, name: str, config: LoKrConfig, tensors: Mapping[str, Tensor], file: object) -> None:
    """Set the adapter's parameters, of which those in layers are on the meta device, from a file's tensors."""
    parameters = adapter_parameters(model, name, config)
    check_fits(tensors, {key: tuple(parameter.shape) for key, parameter in parameters.items()}, file)
    for path, layer in layers_of(model, name):
        for kind, parameter in layer.adapter_tensors(name).items():
            values = tensors[f"{PREFIX}{path}.{kind}"].to(layer.weight.device, parameter.dtype, copy=True)
            getattr(layer, kind)[name] = nn.Parameter(values)
    for key, tensor in parameters.items():
        if not tensor.is_meta:  # of modules that are trained whole, and biases
            tensor.copy_(tensors[key])
