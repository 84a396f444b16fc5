"""A training whose passes a host runs itself: the optimizer's steps, and a checkpoint to resume from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._files import json_object, read_header
from ..errors import LoKrFileError, LoKrValueError
from ._accelerator import Alone
from ._optimizer import optimizer_for
from ._settings import TrainSettings
from ._state import KEY, load_state, save_state


class TrainingSession:
    """The state of a training: parameters, their optimizer, the losses so far, torch's random state after each step.

    parameters: by name, as a checkpoint holds them
    settings: of the optimizer and its learning rate; the passes themselves are the host's

    Raises LoKrValueError if there is nothing to train, LoKrError if the optimizer's package is not installed.

    >>> weight = nn.Parameter(torch.ones(()))
    >>> session = TrainingSession({"weight": weight}, TrainSettings(learning_rate=0.5, accumulate=2))
    >>> [session.backward((weight - target).square()) for target in (0.0, 2.0)]
    [False, True]
    >>> session.steps, session.losses
    (1, [1.0])
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], settings: TrainSettings):
        if not parameters:
            raise LoKrValueError("There is nothing to train", expected="at least one parameter", found=0)
        self._module, self._settings = _holding(parameters), settings
        self._optimizer = optimizer_for(list(parameters.values()), settings)
        self.losses: list[float] = []
        self._random = torch.get_rng_state()
        self._passes: list[float] = []

    @property
    def steps(self) -> int:
        """How many steps were taken, with those before a resumed checkpoint."""
        return len(self.losses)

    def begin(self) -> None:
        """Set torch's random state to that after the last step, and drop the passes of an unfinished one."""
        torch.set_rng_state(self._random)
        self._optimizer.zero_grad()
        self._passes.clear()

    def backward(self, loss: Tensor) -> bool:
        """Accumulate the gradients of one pass from its mean loss, (); a step's last pass takes the step.

        Returns whether it took the step. Raises LoKrValueError, without one, if the loss is not a finite number.
        """
        value = float(loss.detach())
        if not math.isfinite(value):
            raise LoKrValueError(
                f"The loss of step {self.steps + 1} is not a finite number",
                expected="a number",
                found=value,
                hint="train with a lower learning rate or in higher precision",
            )
        (loss / self._settings.accumulate).backward()
        self._passes.append(value)
        if len(self._passes) < self._settings.accumulate:
            return False
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.rate(self.steps)
        if self._settings.clip:
            nn.utils.clip_grad_norm_(self._module.parameters(), self._settings.clip)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.losses.append(sum(self._passes) / len(self._passes))
        self._passes.clear()
        self._random = torch.get_rng_state()
        return True

    def check_finite(self) -> None:
        """Raises LoKrValueError if a parameter is not finite."""
        for name, parameter in self._module.named_parameters():
            if not torch.isfinite(parameter).all():
                raise LoKrValueError(
                    f"The adapter is not finite after step {self.steps}",
                    module=_dotted(name),
                    hint="train with a lower learning rate or in higher precision",
                )

    def save(self, path: Path, same: Mapping[str, Any]) -> None:
        """Write a checkpoint atomically.

        same: entries, of JSON's types, that a run has to give to ``resume`` as well

        Raises LoKrValueError if a parameter is not finite; the old file stays then.
        """
        self.check_finite()
        torch.set_rng_state(self._random)
        save_state(path, self._module, self._optimizer, _ALONE, {**same, "losses": self.losses})

    def resume(self, path: Path, same: Mapping[str, Any]) -> None:
        """Continue from a checkpoint.

        Raises LoKrFileError, naming what differs, if it is damaged, has other parameters or was saved with another
        ``same``; nothing has changed then.
        """
        before = json_object(read_header(path).metadata.get(KEY)).get("progress", {})
        differing = [name for name in same if before.get(name) != same[name]]
        problem = "The checkpoint of this name cannot be resumed: it is damaged, or of another model or other options"
        hint = "train with what it was started with, or under another name, or start over"
        if differing:
            theirs, own = ({name: each.get(name) for name in differing} for each in (before, same))
            raise LoKrFileError(problem, file=path, expected=theirs, found=own, hint=hint)
        try:
            self.losses = list(load_state(path, self._module, self._optimizer, _ALONE, same)["losses"])
        except LoKrFileError as error:
            module = error.module and _dotted(error.module)
            raise LoKrFileError(
                problem, file=path, module=module, expected=error.expected, found=error.found, hint=hint
            ) from error
        self._random = torch.get_rng_state()


_ALONE = Alone(torch.device("cpu"))


def _holding(parameters: Mapping[str, nn.Parameter]) -> nn.Module:
    """A module with these parameters; their names may have no dots there."""
    module = nn.Module()
    for name, parameter in parameters.items():
        module.register_parameter(name.replace(".", "/"), parameter)
    return module


def _dotted(name: str) -> str:
    return name.replace("/", ".")
