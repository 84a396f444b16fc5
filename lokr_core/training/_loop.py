"""The training loop."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from .._files import replacing
from ..display import Progress, plot_losses
from ..errors import LoKrValueError
from ._processes import Processes
from ._state import load_state, save_state

STATE_NAME, LOSSES_NAME, PICTURE_NAME = "state.safetensors", "losses.json", "loss.png"


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    ``batch_size`` counts the examples of a step in all processes together. ``seed`` decides the order of the examples
    and each one's noise, whatever the number of processes. The state is saved after every ``save_every`` steps, and
    after the last.
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
                raise LoKrValueError(f"{name} must be a whole number of 1 at least", expected=">= 1", found=repr(value))
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise LoKrValueError("learning_rate must be above 0", expected="> 0", found=repr(self.learning_rate))


@dataclass(frozen=True)
class Batch:
    """This process' examples of one step.

    ``indices`` are the examples' numbers, ``places`` their places in the whole batch. Random numbers drawn here belong
    to a step and a place, so that they are the same for any number of processes and after any stop.
    """

    step: int
    indices: list[int]
    places: list[int]
    seed: int

    @cached_property
    def _generators(self) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(_mixed(self.seed, self.step, place)) for place in self.places]

    def randn(self, *shape: int) -> Tensor:
        """Normal numbers (examples, *shape)."""
        return torch.stack([torch.randn(shape, generator=generator) for generator in self._generators])

    def randint(self, high: int) -> Tensor:
        """Whole numbers from 0 to high - 1, one for each example."""
        return torch.cat([torch.randint(high, (1,), generator=generator) for generator in self._generators])

    def rand(self) -> Tensor:
        """Numbers in 0..1, one for each example."""
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
    """Train what of ``model`` requires gradients with AdamW, and return the loss of every step.

    model: as ``Processes.spread`` gives it
    loss_of: the mean loss of a batch; called with the model and the batch
    examples: how many there are; each epoch goes through all of them in an order of its own
    out: folder for the state, the losses and their plot. A training that it holds goes on from its last state, to the
        same numbers that it would have come to without the stop
    save: writes the adapter, wherever and in whichever format; called with every checkpoint, by every process, and
        told whether it is the one that writes
    progress: told (steps done, in all)

    Torch's global random generator is seeded, alike in all processes. Raises LoKrValueError where the batch cannot be
    shared out or a loss is not finite, LoKrFileError where ``out`` holds a training of another model or with other
    settings.
    """
    processes = processes or Processes.current()
    progress = progress or (lambda done, total: None)
    if settings.batch_size % processes.count:
        raise LoKrValueError(
            "The batch cannot be shared out evenly",
            expected=f"a batch_size that {processes.count} processes divide",
            found=settings.batch_size,
        )
    if examples < 1:
        raise LoKrValueError("There is nothing to train on", expected="1 example at least", found=examples)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = _adamw(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    # Rank and module dropout draw one mask for a whole batch, so every process has to draw the same.
    torch.manual_seed(settings.seed)
    state, losses = out / STATE_NAME, []
    same = {"seed": settings.seed, "batch_size": settings.batch_size, "examples": examples}
    if state.exists():
        losses = list(load_state(state, model, optimizer, processes, same)["losses"])
    elif processes.is_first:
        out.mkdir(parents=True, exist_ok=True)

    def checkpoint() -> None:
        """Write the adapter, the losses and their plot, and the state to go on from."""
        # The state last: a stop in between repeats these steps, and so writes the rest again.
        save(processes.is_first)
        if processes.is_first:
            with replacing(out / LOSSES_NAME) as temporary:
                temporary.write_text(json.dumps(losses))
            with replacing(out / PICTURE_NAME) as temporary:
                plot_losses(losses, temporary)
        save_state(state, model, optimizer, processes, {**same, "losses": losses})
        processes.wait()

    model.train()
    for batch in _batches(settings, examples, len(losses), processes):
        loss = loss_of(model, batch)
        mean = processes.mean(loss)
        if not math.isfinite(mean):
            raise LoKrValueError(
                f"The loss of step {batch.step + 1} is not a finite number",
                found=mean,
                hint="go on from the last state with a lower learning rate",
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(mean)
        if len(losses) % settings.save_every == 0 or len(losses) == settings.steps:
            checkpoint()
        progress(len(losses), settings.steps)
    return losses


def _adamw(parameters: list[nn.Parameter], **settings: float) -> torch.optim.AdamW:
    """Its one pass over each parameter where this torch has it for their device: a LoKr has many small ones, and four
    times as much time goes into a dozen calls for each (measured on a CPU)."""
    try:
        return torch.optim.AdamW(parameters, fused=True, **settings)
    except RuntimeError:
        return torch.optim.AdamW(parameters, **settings)


def _batches(settings: TrainSettings, examples: int, done: int, processes: Processes) -> Iterator[Batch]:
    """The batches of the steps that are left, each process' own share of them."""
    size = settings.batch_size
    order, epoch = [], -1
    for step in range(done, settings.steps):
        indices = []
        for place in range(step * size, (step + 1) * size):
            if place // examples != epoch:
                epoch = place // examples
                generator = torch.Generator().manual_seed(_mixed(settings.seed, epoch))
                order = torch.randperm(examples, generator=generator).tolist()
            indices.append(order[place % examples])
        yield Batch(step, processes.share(indices), processes.share(list(range(size))), settings.seed)


def _mixed(*numbers: int) -> int:
    """One seed out of several numbers: near ones give streams that have nothing in common (splitmix64)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


_MASK = (1 << 64) - 1
