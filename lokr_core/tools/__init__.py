"""What people do with adapters besides applying them: merge into a checkpoint file, combine several."""

from ._checkpoint import apply_to_file, check_file, version
from ._combine import EXACT, OVERLAPS, Term, combine

__all__ = [
    "EXACT",
    "OVERLAPS",
    "Term",
    "apply_to_file",
    "check_file",
    "combine",
    "version",
]
