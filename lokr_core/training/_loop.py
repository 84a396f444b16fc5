"""The training loop."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._files import replacing
from ..display import Progress, plot_losses
from ..errors import LoKrValueError
from ._accelerator import Alone
from ._batches import Batch, Plan
from ._optimizer import optimizer_for
from ._settings import TrainSettings
from ._state import load_state, save_state

STATE_NAME, LOSSES_NAME, PICTURE_NAME = FILES = "state.safetensors", "losses.json", "loss.png"


def train(
    model: nn.Module,
    loss_of: Callable[[nn.Module, Batch], Tensor],
    examples: int,
    settings: TrainSettings,
    out: Path,
    save: Callable[[bool], None],
    accelerator: Any = None,
    progress: Progress | None = None,
    *,
    buckets: Sequence[object] | None = None,
    identity: Mapping[str, Any] | None = None,
) -> list[float]:
    """Train the parameters of ``model`` that require gradients; returns the loss of every step.

    loss_of: the mean loss of a batch, given the model as the accelerator prepared it and the batch
    examples: how many there are; each epoch visits all of them, in an order of its own
    out: folder for the state, the losses and their plot. If it holds a state, training resumes from it and gives the
        numbers that an uninterrupted run gives
    save: writes the adapter; called at every checkpoint in every process, with True in the one that writes
    accelerator: accelerate's ``Accelerator`` (``accelerator_for``): where, in how many processes and in which precision
        to train. None: in this process, where the model is, in the model's own precision
    progress: called after each step in every process with (steps done, steps in all)
    buckets: each example's shape, anything that can be compared; a batch holds examples of one if it can
    identity: further entries, of JSON's types, that a state must have to be resumed from

    Seeds torch's global generator, alike in all processes. Raises LoKrValueError if the number of processes does not
    divide the batch size, there are no examples or a loss is not finite; LoKrFileError if ``out`` holds a state of
    another model or other settings; LoKrError if the optimizer's package is not installed.
    """
    accelerator = accelerator or Alone(next(model.parameters()).device)
    _check_sizes(settings, examples, accelerator.num_processes)
    optimizer = optimizer_for([p for p in model.parameters() if p.requires_grad], settings)
    model, optimizer = accelerator.prepare(model, optimizer)
    # Rank and module dropout draw one mask for a part of a batch, so every process must draw the same.
    torch.manual_seed(settings.seed)
    is_first = accelerator.is_main_process
    if is_first:
        out.mkdir(parents=True, exist_ok=True)
    state, same = out / STATE_NAME, _identity(settings, examples) | dict(identity or {})
    losses = load_state(state, model, optimizer, accelerator, same)["losses"] if state.exists() else []
    model.train()
    plan = Plan(settings, examples, buckets, accelerator.process_index, accelerator.num_processes)
    for parts in plan.steps(len(losses)):
        losses.append(_step(model, optimizer, loss_of, parts, settings, accelerator))
        if len(losses) % settings.save_every == 0 or len(losses) == settings.steps:
            # The state is written last: a run interrupted before that repeats these steps and writes all files again.
            save(is_first)
            if is_first:
                _write_losses(losses, out)
            save_state(state, model, optimizer, accelerator, {**same, "losses": losses})
            accelerator.wait_for_everyone()
        if progress:
            progress(len(losses), settings.steps)
    return losses


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[nn.Module, Batch], Tensor],
    parts: list[Batch],
    settings: TrainSettings,
    accelerator: Any,
) -> float:
    """One step, on the parts of this process' share; returns the loss of the whole batch."""
    step, share = parts[0].step, sum(len(part.indices) for part in parts)
    for group in optimizer.param_groups:
        group["lr"] = settings.rate(step)
    optimizer.zero_grad()
    total: Any = 0.0
    for number, part in enumerate(parts, 1):
        # Gradients are averaged over the processes after the last part.
        with nullcontext() if number == len(parts) else accelerator.no_sync(model):
            loss = loss_of(model, part) * (len(part.indices) / share)
            accelerator.backward(loss)
        total = total + loss.detach()
    mean = _checked(float(accelerator.reduce(total, "mean")), step)
    if settings.clip:
        accelerator.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], settings.clip)
    optimizer.step()
    return mean


def _identity(settings: TrainSettings, examples: int) -> dict[str, Any]:
    """What a state must have in common with a training that resumes from it."""
    same = {"seed": settings.seed, "batch_size": settings.batch_size, "examples": examples}
    return same if settings.optimizer == "adamw" else {**same, "optimizer": settings.optimizer}


def _check_sizes(settings: TrainSettings, examples: int, processes: int) -> None:
    if settings.batch_size % processes:
        raise LoKrValueError(
            "batch_size must be a multiple of the number of processes",
            expected=f"a multiple of {processes}",
            found=settings.batch_size,
        )
    if examples < 1:
        raise LoKrValueError("No examples to train on", expected="at least 1", found=examples)


def _checked(loss: float, step: int) -> float:
    if not math.isfinite(loss):
        hint = "resume from the last checkpoint with a lower learning rate"
        raise LoKrValueError(f"The loss of step {step + 1} is not a finite number", found=loss, hint=hint)
    return loss


def _write_losses(losses: list[float], out: Path) -> None:
    with replacing(out / LOSSES_NAME) as temporary:
        temporary.write_text(json.dumps(losses))
    with replacing(out / PICTURE_NAME) as temporary:
        plot_losses(losses, temporary)
