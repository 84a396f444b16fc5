"""Which weights of a model the modules of an adapter belong to: by name, checked by shape, and reported."""

from ._foreign import other_updates
from ._match import Match, other_places, resolve
from ._report import APPLIED, REFUSED, Report
from ._target import Part, Target, weight_name

__all__ = [
    "APPLIED",
    "Match",
    "Part",
    "REFUSED",
    "Report",
    "Target",
    "other_places",
    "other_updates",
    "resolve",
    "weight_name",
]
