"""A training loop for LoKr models that resumes exactly after any interruption, in one process or many."""

from ._loop import FILES, Batch, TrainSettings, train
from ._losses import flow_matching_loss, noise_loss, prompt_embedding
from ._pictures import load_pictures
from ._processes import processes
from ._small_model import FLUX_TARGETS, latents_of, small_flux

__all__ = [
    "FILES",
    "FLUX_TARGETS",
    "Batch",
    "TrainSettings",
    "flow_matching_loss",
    "latents_of",
    "load_pictures",
    "noise_loss",
    "processes",
    "prompt_embedding",
    "small_flux",
    "train",
]
