"""A training loop for LoKr models that resumes exactly after any interruption, in one process or many."""

from ._command import Trained, add_arguments, run
from ._loop import Batch, TrainSettings, train
from ._losses import flow_matching_loss, noise_loss, prompt_embedding
from ._processes import Processes, processes

__all__ = [
    "Batch",
    "Processes",
    "TrainSettings",
    "Trained",
    "add_arguments",
    "flow_matching_loss",
    "noise_loss",
    "processes",
    "prompt_embedding",
    "run",
    "train",
]
