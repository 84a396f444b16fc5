"""Tools for adapter files: merge one into a checkpoint file, combine several into one."""

from ._checkpoint import apply_to_file, check_file
from ._combine import EXACT, OVERLAPS, Term, combine
from ._version import version

__all__ = [
    "EXACT",
    "OVERLAPS",
    "Term",
    "apply_to_file",
    "check_file",
    "combine",
    "version",
]
