"""What LoKr Train is to do."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ..lokr_core.peft import LoKrConfig
from ..lokr_core.training import TrainSettings

LOSSES = {"MSE": nn.MSELoss, "L1": nn.L1Loss, "Huber": nn.HuberLoss, "SmoothL1": nn.SmoothL1Loss}


@dataclass(frozen=True)
class Sample:
    """What is painted while training: a picture of the first picture's size and prompt."""

    every: int
    steps: int
    cfg: float
    negative: list | None


@dataclass(frozen=True)
class TrainPlan:
    """What to train, and how. dtype: of the computation; loss: one of ``LOSSES``; modules: below diffusion_model."""

    modules: list[str]
    config: LoKrConfig
    settings: TrainSettings
    loss: str
    dtype: torch.dtype
    checkpointing: bool
    sample: Sample
