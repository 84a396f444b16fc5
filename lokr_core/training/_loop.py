"""The training loop."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from .._files import replacing
from ..display import Progress, plot_losses
from ..errors import LoKrValueError
from ._processes import Processes
from ._state import load_state, save_state

STATE_NAME, LOSSES_NAME, PICTURE_NAME = FILES = "state.safetensors", "losses.json", "loss.png"


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    steps: how many in all
    batch_size: examples per step, over all processes
    learning_rate, weight_decay: of AdamW
    seed: decides the order of the examples and each one's noise, whatever the number of processes
    save_every: steps between checkpoints; the last step saves one as well

    Raises LoKrValueError if a count is not a positive integer or the learning rate is not a positive number.
    """

    steps: int = 200
    batch_size: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    seed: int = 0
    save_every: int = 50

    def __post_init__(self):
        for name in ("steps", "batch_size", "save_every"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise LoKrValueError(f"{name} must be a positive integer", expected=">= 1", found=repr(value))
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise LoKrValueError("learning_rate must be positive", expected="> 0", found=repr(self.learning_rate))


@dataclass(frozen=True)
class Batch:
    """This process' share of one step's examples.

    indices: the examples' numbers; places: their positions in the whole batch

    Random numbers depend only on the seed, the step and the place, so any number of processes and any interruption
    give the same ones.

    >>> whole, second = Batch(3, [4, 1], [0, 1], seed=5), Batch(3, [1], [1], seed=5)
    >>> torch.equal(whole.randn(8, 8)[1:], second.randn(8, 8))
    True
    """

    step: int
    indices: list[int]
    places: list[int]
    seed: int

    @cached_property
    def _generators(self) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(_mixed(self.seed, self.step, place)) for place in self.places]

    def randn(self, *shape: int) -> Tensor:
        """Standard normal numbers (examples, *shape)."""
        return torch.stack([torch.randn(shape, generator=generator) for generator in self._generators])

    def randint(self, high: int) -> Tensor:
        """An integer in 0 … high - 1 per example: (examples,)."""
        return torch.cat([torch.randint(high, (1,), generator=generator) for generator in self._generators])

    def rand(self) -> Tensor:
        """A uniform number in [0, 1) per example: (examples,)."""
        return torch.cat([torch.rand(1, generator=generator) for generator in self._generators])


def train(
    model: nn.Module,
    loss_of: Callable[[nn.Module, Batch], Tensor],
    examples: int,
    settings: TrainSettings,
    out: Path,
    save: Callable[[bool], None],
    processes: Processes | None = None,
    progress: Progress | None = None,
) -> list[float]:
    """Train the parameters of ``model`` that require gradients with AdamW; returns the loss of every step.

    model: as ``Processes.spread`` returns it
    loss_of: the mean loss of a batch, given the model and the batch
    examples: how many there are; each epoch visits all of them, in an order of its own
    out: folder for the state, the losses and their plot. If it holds a state, training resumes from it and gives the
        numbers that an uninterrupted run gives
    save: writes the adapter; called at every checkpoint in every process, with True in the one that writes
    progress: called with (steps done, steps in all)

    Seeds torch's global generator, alike in all processes. Raises LoKrValueError if the number of processes does not
    divide the batch size, there are no examples or a loss is not finite; LoKrFileError if ``out`` holds a state of
    another model or other settings.
    """
    processes = processes or Processes.current()
    _check_sizes(settings, examples, processes)
    optimizer = _adamw([p for p in model.parameters() if p.requires_grad], settings)
    # Rank and module dropout draw one mask for the whole batch, so every process must draw the same.
    torch.manual_seed(settings.seed)
    if processes.is_first:
        out.mkdir(parents=True, exist_ok=True)
    state, same = out / STATE_NAME, {"seed": settings.seed, "batch_size": settings.batch_size, "examples": examples}
    losses = load_state(state, model, optimizer, processes, same)["losses"] if state.exists() else []
    model.train()
    for batch in _batches(settings, examples, len(losses), processes):
        loss = loss_of(model, batch)
        losses.append(_checked(processes.mean(loss), batch.step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if len(losses) % settings.save_every == 0 or len(losses) == settings.steps:
            # The state last: if interrupted before it, these steps are repeated and the other files written again.
            save(processes.is_first)
            if processes.is_first:
                _write_losses(losses, out)
            save_state(state, model, optimizer, processes, {**same, "losses": losses})
            processes.wait()
        if progress:
            progress(len(losses), settings.steps)
    return losses


def _check_sizes(settings: TrainSettings, examples: int, processes: Processes) -> None:
    if settings.batch_size % processes.count:
        raise LoKrValueError(
            "batch_size must be a multiple of the number of processes",
            expected=f"a multiple of {processes.count}",
            found=settings.batch_size,
        )
    if examples < 1:
        raise LoKrValueError("No examples to train on", expected="at least 1", found=examples)


def _adamw(parameters: list[nn.Parameter], settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW, fused if this torch supports it on the parameters' device.

    A LoKr has many small parameters: unfused, a dozen calls for each take four times as long (measured on a CPU).
    """
    rate, decay = settings.learning_rate, settings.weight_decay
    try:
        return torch.optim.AdamW(parameters, rate, weight_decay=decay, fused=True)
    except RuntimeError:
        return torch.optim.AdamW(parameters, rate, weight_decay=decay)


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


def _batches(settings: TrainSettings, examples: int, done: int, processes: Processes) -> Iterator[Batch]:
    """This process' share of the remaining steps' batches."""
    size = settings.batch_size
    for step in range(done, settings.steps):
        visits = (divmod(place, examples) for place in range(step * size, (step + 1) * size))
        indices = [_order(settings.seed, epoch, examples)[at] for epoch, at in visits]
        yield Batch(step, processes.share(indices), processes.share(list(range(size))), settings.seed)


@lru_cache(maxsize=1)
def _order(seed: int, epoch: int, examples: int) -> list[int]:
    """The order in which an epoch visits the examples."""
    return torch.randperm(examples, generator=torch.Generator().manual_seed(_mixed(seed, epoch))).tolist()


def _mixed(*numbers: int) -> int:
    """One seed from several numbers, by splitmix64: nearby numbers give unrelated streams."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


_MASK = (1 << 64) - 1
