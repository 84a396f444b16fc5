"""The optimizer of a training."""

from __future__ import annotations

import torch
from torch import nn

from ._optional import needed
from ._settings import TrainSettings


def optimizer_for(parameters: list[nn.Parameter], settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimizer that the settings name. Raises LoKrError if its package is not installed."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "adamw8bit":
        return needed("bitsandbytes", "0.49").optim.AdamW8bit(parameters, rate, weight_decay=decay)
    if settings.optimizer == "prodigy":
        # Its author's advice for diffusion models.
        options = dict(safeguard_warmup=True, use_bias_correction=True)
        return needed("prodigyopt", "1.0").Prodigy(parameters, rate, weight_decay=decay, **options)
    # A LoKr has many small parameters: unfused, a dozen calls for each take four times as long (measured on a CPU).
    try:
        return torch.optim.AdamW(parameters, rate, weight_decay=decay, fused=True)
    except RuntimeError:  # this torch has no fused form for the device
        return torch.optim.AdamW(parameters, rate, weight_decay=decay)
