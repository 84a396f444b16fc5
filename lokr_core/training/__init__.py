"""A training loop for LoKr models that stops anywhere, goes on exactly, and runs in one process or many."""

from .loop import Batch, TrainSettings, train
from .plot import plot_losses
from .processes import Processes, processes

__all__ = ["Batch", "Processes", "TrainSettings", "plot_losses", "processes", "train"]
