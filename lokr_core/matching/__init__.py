"""Which weights of a model the modules of an adapter belong to: by name, checked by shape, and reported."""

from ..names import weight_name
from ._foreign import foreign_updates
from ._match import Match, left_out
from ._order import in_named_order
from ._report import Report
from ._resolve import foreign_places, resolve
from ._target import Target, source_of

__all__ = [
    "Match",
    "Report",
    "Target",
    "foreign_places",
    "foreign_updates",
    "in_named_order",
    "left_out",
    "resolve",
    "source_of",
    "weight_name",
]
