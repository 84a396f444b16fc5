"""Which weights of a model the modules of an adapter belong to: by name, checked by shape, and reported."""

from ._foreign import foreign_updates
from ._match import Match
from ._report import Report
from ._resolve import foreign_places, resolve
from ._target import SubModel, Target, source_of, weight_name

__all__ = [
    "Match",
    "Report",
    "SubModel",
    "Target",
    "foreign_places",
    "foreign_updates",
    "resolve",
    "source_of",
    "weight_name",
]
