"""Tools for adapter files: merge one into a checkpoint file, combine several into one."""

from ._checkpoint import Applied, apply_all, apply_to_file, check_file
from ._combine import EXACT, OVERLAPS, Term, combine
from ._convert import INEXACT, TO, Conversion, convert, convert_file
from ._converted import Converted, Made
from ._updates import Updates, read_updates, updates_of
from ._version import version

__all__ = [
    "Applied",
    "Conversion",
    "Converted",
    "EXACT",
    "INEXACT",
    "Made",
    "OVERLAPS",
    "TO",
    "Term",
    "Updates",
    "apply_all",
    "apply_to_file",
    "check_file",
    "combine",
    "convert",
    "convert_file",
    "read_updates",
    "updates_of",
    "version",
]
