"""What a training needs to go on as if it had never stopped, in one safetensors file.

The model's trainable parameters and the optimizer's state are gathered by torch's own helpers
(``torch.distributed.checkpoint.state_dict``), so a file written by one process is read by many and the other way
round.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._files import load_tensors, save_tensors
from ..errors import LoKrError, LoKrFileError
from ._processes import Processes

_KEY = "lokr.training"
_MODEL, _OPTIMIZER, _RANDOM = "model.", "optimizer.", "random."


def save_state(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, processes: Processes, progress: Mapping[str, Any]
) -> None:
    """Write the state whole or not at all; called by every process, written by the first.

    progress: what the loop itself has to know, as JSON has it.
    """
    get_state_dict, _, options = _helpers()
    parameters, state = get_state_dict(
        model, optimizer, options=options(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    )
    if not processes.is_first:
        return
    tensors: dict[str, Tensor] = {_MODEL + name: tensor for name, tensor in parameters.items()}
    for name, values in state["state"].items():
        tensors.update({f"{_OPTIMIZER}{name}:{key}": torch.as_tensor(value) for key, value in values.items()})
    tensors[_RANDOM + "cpu"] = torch.get_rng_state()
    if processes.device.type == "cuda":
        tensors[_RANDOM + "cuda"] = torch.cuda.get_rng_state(processes.device)
    entries = {"progress": dict(progress), "groups": state["param_groups"]}
    save_tensors(tensors, path, {_KEY: json.dumps(entries)})


def load_state(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, processes: Processes, same: Mapping[str, Any]
) -> dict[str, Any]:
    """Put ``model``, ``optimizer`` and the random generators in the state of the file; returns its ``progress``.

    The optimizer keeps its own hyperparameters. Raises LoKrFileError for a file that is none, or is of another model,
    or whose ``progress`` has not the entries of ``same``: then nothing is changed.
    """
    _, set_state_dict, options = _helpers()
    tensors, metadata = load_tensors(path)
    try:
        entries = json.loads(metadata[_KEY])
        groups, progress = entries["groups"], entries["progress"]
    except (KeyError, TypeError, ValueError):
        raise LoKrFileError(
            "This is no state of a training", file=path, expected=f"{_KEY} in its metadata", hint="start anew"
        ) from None
    parameters = {key[len(_MODEL) :]: t for key, t in tensors.items() if key.startswith(_MODEL)}
    _check_parameters(parameters, model, path)
    if {name: progress.get(name) for name in same} != same:
        raise LoKrFileError(
            "This folder holds a training with other settings",
            file=path,
            expected=same,
            found={name: progress.get(name) for name in same},
            hint="go on with its settings, or train into another folder",
        )
    state: dict[str, dict[str, Tensor]] = {name: {} for name in parameters}
    for key, tensor in tensors.items():
        if key.startswith(_OPTIMIZER):
            name, _, value = key[len(_OPTIMIZER) :].rpartition(":")
            state[name][value] = tensor
    own = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    set_state_dict(
        model,
        optimizer,
        model_state_dict=parameters,
        optim_state_dict={"state": state, "param_groups": groups},
        options=options(full_state_dict=True, ignore_frozen_params=True, strict=False),
    )
    for group, values in zip(optimizer.param_groups, own, strict=True):
        group.update(values)  # a lower learning rate from here on, say
    # The generators of all processes are alike (see ``train``).
    torch.set_rng_state(tensors[_RANDOM + "cpu"])
    if processes.device.type == "cuda" and _RANDOM + "cuda" in tensors:
        torch.cuda.set_rng_state(tensors[_RANDOM + "cuda"], processes.device)
    return progress


def _helpers() -> tuple[Any, Any, Any]:
    try:
        from torch.distributed.checkpoint import state_dict
    except ImportError:
        raise LoKrError(
            "This torch is too old to save a training", expected="torch 2.2", found=torch.__version__
        ) from None
    return state_dict.get_state_dict, state_dict.set_state_dict, state_dict.StateDictOptions


def _check_parameters(parameters: Mapping[str, Tensor], model: nn.Module, path: Path) -> None:
    wrapped = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    expected = {name: tuple(p.shape) for name, p in wrapped.named_parameters() if p.requires_grad}
    found = {name: tuple(tensor.shape) for name, tensor in parameters.items()}
    if found != expected:
        name = next(name for name in (*expected, *found) if found.get(name) != expected.get(name))
        raise LoKrFileError(
            "This state is of another model or configuration",
            file=path,
            module=name,
            expected=expected.get(name, "no such parameter"),
            found=found.get(name, "no such parameter"),
            hint="train with the settings it was begun with, or into another folder",
        )
