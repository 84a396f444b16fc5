"""Updates as rows of a module under another name."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..adapter import LoKrWeights
from ..modules import ModuleName

Pieces = list[tuple[int, LoKrWeights]]
"""(first row, update of the rows from there) pairs."""


@dataclass
class Regrouped:
    """What a module of the new format is made of.

    name: its name there; shape: (out, in, *kernel) of its weight
    pieces: the updates of its rows, one of all rows if a module of the file is this one; rows without one are zero
    sources: the file's modules that they come from
    """

    name: ModuleName
    shape: tuple[int, ...]
    pieces: Pieces = field(default_factory=list)
    sources: dict[str, None] = field(default_factory=dict)

    @property
    def single(self) -> LoKrWeights | None:
        """The update if it is one of all rows, else None."""
        if len(self.pieces) == 1 and self.pieces[0][1].shape[0] == self.shape[0]:
            return self.pieces[0][1]
        return None
