"""A training loop for LoKr models that resumes exactly after any interruption, in one process or many."""

from ._accelerator import PRECISIONS, accelerator_for
from ._batches import Batch
from ._loop import FILES, train
from ._optional import needed
from ._session import TrainingSession
from ._settings import OPTIMIZERS, SCHEDULES, TrainSettings

__all__ = [
    "Batch",
    "FILES",
    "OPTIMIZERS",
    "PRECISIONS",
    "SCHEDULES",
    "TrainSettings",
    "TrainingSession",
    "accelerator_for",
    "needed",
    "train",
]
