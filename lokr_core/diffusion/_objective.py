"""What a denoiser is trained to predict, at which times, and how an error counts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import LoKrValueError
from ..training import Batch

PREDICTIONS = ("epsilon", "v_prediction")
TIMES = ("logit-normal", "uniform")


@dataclass(frozen=True)
class Question:
    """What a batch asks of the denoiser: noisy latents at ``times`` (n,), the right answer, and each one's weight."""

    noisy: Tensor
    times: Tensor
    target: Tensor
    weights: Tensor


class Objective(Protocol):
    """Clean latents (n, channels, h, w) -> a question, with random numbers of the batch."""

    def __call__(self, clean: Tensor, batch: Batch) -> Question: ...

    def settings(self) -> list:
        """What tells it from another, of JSON's types."""
        ...


@dataclass(frozen=True)
class Diffusion:
    """DDPM: the noise, or the velocity, at a uniformly random step.

    scheduler: diffusers' ``DDPMScheduler``
    prediction: "epsilon" or "v_prediction"
    snr_gamma: γ of Min-SNR (https://arxiv.org/abs/2303.09556), which limits the weight of steps with little noise; 0:
        all steps weigh alike
    """

    scheduler: Any
    prediction: str
    snr_gamma: float = 0.0

    def __post_init__(self):
        if self.prediction not in PREDICTIONS:
            raise LoKrValueError("Unknown prediction", expected=", ".join(PREDICTIONS), found=repr(self.prediction))

    def __call__(self, clean: Tensor, batch: Batch) -> Question:
        noise = batch.randn(*clean.shape[1:])
        steps = batch.randint(self.scheduler.config.num_train_timesteps)
        kept: Tensor = self.scheduler.alphas_cumprod[steps]  # ᾱ: share of the signal's variance, (n,)
        noisy = self.scheduler.add_noise(clean, noise, steps)
        target = noise if self.prediction == "epsilon" else self.scheduler.get_velocity(clean, noise, steps)
        return Question(noisy, steps, target, self._weights(kept / (1 - kept)))

    def settings(self) -> list:
        return [self.prediction, self.snr_gamma]

    def _weights(self, snr: Tensor) -> Tensor:
        """(n,), of the error in what is predicted: min(snr, γ) of the error in the clean latents."""
        if not self.snr_gamma:
            return torch.ones_like(snr)
        limited = snr.clamp(max=self.snr_gamma)
        return limited / snr if self.prediction == "epsilon" else limited / (snr + 1)


@dataclass(frozen=True)
class FlowMatching:
    """Rectified flow: the velocity from the latents to noise.

    scheduler: the pipeline's ``FlowMatchEulerDiscreteScheduler``, whose shift the times have
    times: "logit-normal" (the sigmoid of a normal number of this mean and deviation) or "uniform"
    shift: in place of the scheduler's; more than 1 is more noise
    """

    scheduler: Any
    times: str = "logit-normal"
    mean: float = 0.0
    deviation: float = 1.0
    shift: float | None = None

    def __post_init__(self):
        if self.times not in TIMES:
            raise LoKrValueError("Unknown distribution of times", expected=", ".join(TIMES), found=repr(self.times))
        for name, value in (("deviation", self.deviation), ("shift", self.shift)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise LoKrValueError(f"{name} must be positive", expected="> 0", found=repr(value))

    def __call__(self, clean: Tensor, batch: Batch) -> Question:
        noise = batch.randn(*clean.shape[1:])
        if self.times == "uniform":
            share = batch.rand()
        else:
            share = (batch.randn(1).flatten() * self.deviation + self.mean).sigmoid()
        shift = self.shift or self._own_shift(*clean.shape[-2:])
        share = shift * share / (1 + (shift - 1) * share)  # of noise, (n,)
        at = share.view(-1, 1, 1, 1)
        noisy = (1 - at) * clean + at * noise
        steps = share * self.scheduler.config.num_train_timesteps
        return Question(noisy, steps, noise - clean, torch.ones_like(share))

    def settings(self) -> list:
        return [self.times, self.mean, self.deviation, self.shift]

    def _own_shift(self, height: int, width: int) -> float:
        """The scheduler's shift for latents of this size, of 2 × 2 positions a token."""
        config = self.scheduler.config
        if not config.get("use_dynamic_shifting"):
            return float(config.shift)
        low, high = config.base_image_seq_len, config.max_image_seq_len
        share = (height // 2 * (width // 2) - low) / (high - low)
        exponent = config.base_shift + share * (config.max_shift - config.base_shift)
        return math.exp(exponent) if config.get("time_shift_type", "exponential") == "exponential" else exponent
