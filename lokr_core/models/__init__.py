"""A torch model, or a diffusers pipeline of several, as modules under the names that adapters use."""

from ._others import restored_from_copies, same_sample, sample
from ._parts import Projections, View, is_pipeline, parts_of, runs_fused, view_of

__all__ = [
    "Projections",
    "View",
    "is_pipeline",
    "parts_of",
    "restored_from_copies",
    "runs_fused",
    "same_sample",
    "sample",
    "view_of",
]
