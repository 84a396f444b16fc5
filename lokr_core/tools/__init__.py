"""Tools for adapter files: merge one into a checkpoint file, combine several into one."""

from ._check import CHECKS, check_with
from ._checkpoint import Applied, apply_all, apply_to_file, check_file
from ._combine import EXACT, OVERLAPS, Term, combine
from ._convert import convert, convert_file
from ._converted import Converted, Made
from ._extract import EXTRACT_FACTORS, OTHERWISE, Extraction, extract
from ._make import INEXACT, TO, Conversion
from ._resize import resize_file
from ._split import PARTS, Parts, join_files, split_file
from ._updates import Updates, read_updates, updates_of
from ._version import version

__all__ = [
    "Applied",
    "CHECKS",
    "Conversion",
    "Converted",
    "EXACT",
    "EXTRACT_FACTORS",
    "Extraction",
    "INEXACT",
    "Made",
    "OTHERWISE",
    "OVERLAPS",
    "PARTS",
    "Parts",
    "TO",
    "Term",
    "Updates",
    "apply_all",
    "apply_to_file",
    "check_file",
    "check_with",
    "combine",
    "convert",
    "convert_file",
    "extract",
    "join_files",
    "read_updates",
    "resize_file",
    "split_file",
    "updates_of",
    "version",
]
