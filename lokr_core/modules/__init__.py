"""The modules of a file: their names taken apart, how producers and formats spell them, and those that are not LoKr."""

from ._experts import (
    EXPERTS,
    check_held,
    checked_expert,
    expert_called,
    experts_among,
    own_path,
    two_experts,
    with_experts,
)
from ._foreign import Foreign, ForeignModule
from ._name import ModuleName
from ._prefixes import INNER_WRAPPERS, PREFIX, PREFIXES, ROOTS, WRAPPERS, FilePrefix, holds_prefix
from ._spellings import OWN, SPELLINGS, TRAINED, UP_DOWN, Spelling

__all__ = [
    "EXPERTS",
    "FilePrefix",
    "Foreign",
    "ForeignModule",
    "INNER_WRAPPERS",
    "ModuleName",
    "OWN",
    "PREFIX",
    "PREFIXES",
    "ROOTS",
    "SPELLINGS",
    "Spelling",
    "TRAINED",
    "UP_DOWN",
    "WRAPPERS",
    "check_held",
    "checked_expert",
    "expert_called",
    "experts_among",
    "holds_prefix",
    "own_path",
    "two_experts",
    "with_experts",
]
