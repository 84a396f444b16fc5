"""What a training resumes from, in one safetensors file.

torch's own helpers (``torch.distributed.checkpoint.state_dict``) gather the trainable parameters and the optimizer's
state, so any number of processes reads what any other number wrote.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from .._files import load_tensors, save_tensors
from ..errors import LoKrError, LoKrFileError

KEY = "lokr.training"
_MODEL, _OPTIMIZER, _RANDOM = "model.", "optimizer.", "random."
# What the settings and the device decide in an optimizer's groups; all other entries are restored from the file.
_SETTINGS = ("lr", "initial_lr", "weight_decay", "fused", "foreach", "capturable")


def save_state(path: Path, model: nn.Module, optimizer: Any, accelerator: Any, progress: Mapping[str, Any]) -> None:
    """Write the state atomically: the first process writes, but every process has to call it.

    model, optimizer: as ``accelerator`` prepared them
    progress: the loop's own state, of JSON's types

    Raises LoKrError if torch is older than 2.2, LoKrFileError if the file cannot be written.
    """
    torch_state = _torch_state()
    options = torch_state.StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    parameters, state = torch_state.get_state_dict(model, _torchs(optimizer), options=options)
    if not accelerator.is_main_process:
        return
    trained = _trained(accelerator.unwrap_model(model))  # torch adds the model's buffers
    tensors: dict[str, Tensor] = {_MODEL + name: parameters[name] for name in trained}
    numbers: dict[str, Any] = {}
    for name, values in state["state"].items():
        for key, value in _flat(values):
            kind: dict[str, Any] = tensors if isinstance(value, Tensor) else numbers
            kind[f"{_OPTIMIZER}{name}:{key}"] = value
    tensors[_RANDOM + "cpu"] = torch.get_rng_state()
    if accelerator.device.type == "cuda":
        tensors[_RANDOM + "cuda"] = torch.cuda.get_rng_state(accelerator.device)
    entries = {"progress": dict(progress), "groups": state["param_groups"]}
    if numbers:
        entries["numbers"] = numbers
    if accelerator.scaler is not None:
        entries["scaler"] = accelerator.scaler.state_dict()
    save_tensors(tensors, path, {KEY: json.dumps(entries)})


def load_state(
    path: Path, model: nn.Module, optimizer: Any, accelerator: Any, same: Mapping[str, Any]
) -> dict[str, Any]:
    """Restore ``model``, ``optimizer`` and the random generators from the file; returns its ``progress``.

    same: entries that ``progress`` must have

    The optimizer keeps its own learning rate and weight decay. Raises LoKrFileError if the file is not a training
    checkpoint, or of another model or other settings; nothing is changed then.
    """
    tensors, metadata = load_tensors(path)
    try:
        entries = json.loads(metadata[KEY])
        groups, progress = entries["groups"], entries["progress"]
    except (KeyError, TypeError, ValueError):
        raise LoKrFileError(
            "Not a training checkpoint", file=path, expected=f"{KEY} in its metadata", hint="start anew"
        ) from None
    found = {name: progress.get(name) for name in same}
    differing = [name for name in same if found[name] != same[name]]
    unwrapped = accelerator.unwrap_model(model)
    buffers = {_MODEL + name for name, _ in unwrapped.named_buffers()}  # files of older versions hold them
    parameters = {key[len(_MODEL) :]: t for key, t in tensors.items() if key.startswith(_MODEL) and key not in buffers}
    if "model" not in differing:
        _check_parameters(parameters, unwrapped, path)
    if differing:
        raise LoKrFileError(
            "This folder holds a training with other settings",
            file=path,
            expected={name: same[name] for name in differing},
            found={name: found[name] for name in differing},
            hint="resume it with its own settings, or train into another folder",
        )
    _restore(model, _torchs(optimizer), parameters, {**tensors, **entries.get("numbers", {})}, groups)
    # The generators are alike in all processes (see ``train``).
    torch.set_rng_state(tensors[_RANDOM + "cpu"])
    if accelerator.device.type == "cuda" and _RANDOM + "cuda" in tensors:
        torch.cuda.set_rng_state(tensors[_RANDOM + "cuda"], accelerator.device)
    if accelerator.scaler is not None and "scaler" in entries:
        accelerator.scaler.load_state_dict(entries["scaler"])
    return progress


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(key, value) of a parameter's state; "outer/inner" in the dictionary where bitsandbytes keeps 8-bit moments."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from ((f"{key}/{inner}", held) for inner, held in value.items())
        else:
            yield key, value


def _torchs(optimizer: Any) -> torch.optim.Optimizer:
    """torch's own optimizer, without accelerate's wrapper."""
    return getattr(optimizer, "optimizer", optimizer)


def _restore(
    model: nn.Module, optimizer: torch.optim.Optimizer, parameters: dict, values: Mapping[str, Any], groups: list
) -> None:
    state: dict[str, dict[str, Any]] = {name: {} for name in parameters}
    for key, value in values.items():
        if key.startswith(_OPTIMIZER):
            name, _, kind = key[len(_OPTIMIZER) :].rpartition(":")
            outer, _, kind = kind.rpartition("/")
            (state[name].setdefault(outer, {}) if outer else state[name])[kind] = value
    own = [{key: group[key] for key in _SETTINGS if key in group} for group in optimizer.param_groups]
    # torch restores only keys that a new optimizer has; Prodigy adds one in its first step.
    known = {"params", *(key for group in optimizer.param_groups for key in group)}
    torch_state = _torch_state()
    torch_state.set_state_dict(
        model,
        optimizer,
        model_state_dict=parameters,
        optim_state_dict={
            "state": state,
            "param_groups": [{key: value for key, value in group.items() if key in known} for group in groups],
        },
        options=torch_state.StateDictOptions(full_state_dict=True, ignore_frozen_params=True, strict=False),
    )
    for group, saved, settings in zip(optimizer.param_groups, groups, own, strict=True):
        group.update({key: value for key, value in saved.items() if key not in known})
        group.update(settings)  # for example a lower learning rate


def _torch_state() -> ModuleType:
    """torch's helpers; imported late because that takes a second. Raises LoKrError if torch is older than 2.2."""
    try:
        from torch.distributed.checkpoint import state_dict
    except ImportError:
        raise LoKrError("This torch cannot save a training", expected="torch 2.2", found=torch.__version__) from None
    return state_dict


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _check_parameters(parameters: Mapping[str, Tensor], model: nn.Module, path: Path) -> None:
    expected = {name: tuple(parameter.shape) for name, parameter in _trained(model).items()}
    found = {name: tuple(tensor.shape) for name, tensor in parameters.items()}
    if found != expected:
        name = next(name for name in (*expected, *found) if found.get(name) != expected.get(name))
        raise LoKrFileError(
            "This training checkpoint is of another model or configuration",
            file=path,
            module=name,
            expected=expected.get(name, "no such parameter"),
            found=found.get(name, "no such parameter"),
            hint="train with the settings it was started with, or into another folder",
        )
