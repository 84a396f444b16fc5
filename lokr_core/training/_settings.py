"""How to train: the numbers of a training, and the learning rate of each step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import LoKrValueError

SCHEDULES = ("constant", "linear", "cosine")
OPTIMIZERS = ("adamw", "adamw8bit", "prodigy")


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    steps: how many in all
    batch_size: examples per step, over all processes
    learning_rate, weight_decay: of the optimizer; Prodigy finds its own rate and multiplies it by ``learning_rate``
    seed: decides the order of the examples and each one's noise, whatever the number of processes
    save_every: steps between checkpoints; the last step saves one as well
    accumulate: parts in which each process computes its share of a batch, one after the other (gradient accumulation)
    optimizer: "adamw"; "adamw8bit", which needs bitsandbytes; "prodigy", which needs prodigyopt
    schedule, warmup: the learning rate rises over ``warmup`` steps, then stays ("constant") or falls to 0 at the last
        step ("linear", "cosine")
    clip: largest norm of the gradient, 0 for any

    Raises LoKrValueError if a number is out of range or a name unknown.
    """

    steps: int = 200
    batch_size: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    seed: int = 0
    save_every: int = 50
    accumulate: int = 1
    optimizer: str = "adamw"
    schedule: str = "constant"
    warmup: int = 0
    clip: float = 0.0

    def __post_init__(self):
        for name in ("steps", "batch_size", "save_every", "accumulate"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise LoKrValueError(f"{name} must be a positive integer", expected=">= 1", found=repr(value))
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise LoKrValueError("learning_rate must be positive", expected="> 0", found=repr(self.learning_rate))
        for name in ("warmup", "clip", "weight_decay"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise LoKrValueError(f"{name} must not be negative", expected=">= 0", found=repr(value))
        for name, known in (("schedule", SCHEDULES), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in known:
                raise LoKrValueError(f"Unknown {name}", expected=", ".join(known), found=repr(getattr(self, name)))

    def rate(self, step: int) -> float:
        """The learning rate of a step, a function of its number alone.

        >>> settings = TrainSettings(steps=10, learning_rate=1.0, warmup=2, schedule="linear")
        >>> [settings.rate(step) for step in (0, 1, 2, 6, 9)]
        [0.5, 1.0, 1.0, 0.5, 0.125]
        """
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        share = (step - self.warmup) / max(1, self.steps - self.warmup)
        factors = {"constant": 1.0, "linear": 1 - share, "cosine": (1 + math.cos(math.pi * share)) / 2}
        return self.learning_rate * factors[self.schedule]
