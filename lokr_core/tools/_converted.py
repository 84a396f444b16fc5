"""What a conversion made of each module, and how near it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt

from torch import Tensor

from ..adapter import LoKrWeights, ModuleName
from ..conversion import Keep
from ..display import human_bytes, percent
from ..names import mask_numbers

ENOUGH = 0.9
"""The share of ‖ΔW‖² below which a converted file is unlike the original."""

_ENTRY = 100  # letters of a tensor's entry in a file's header, beside its name


@dataclass(frozen=True, eq=False)
class Made:
    """One module of the new file.

    energy: the share of ‖ΔW‖² that is kept; squared: ‖ΔW‖² of the original
    sources: the modules of the file that it was made of; form: ``LOKR``, ``LORA`` or ``FULL``
    """

    name: ModuleName
    weights: LoKrWeights
    energy: float
    squared: float
    sources: tuple[str, ...]
    form: str
    note: str = ""

    @property
    def rank(self) -> int | None:
        return self.weights.rank

    @property
    def numel(self) -> int:
        return self.weights.numel


@dataclass
class Converted:
    """A converted adapter, and what became of each module.

    format: whose names and layout it has; other: tensors that are kept as they are, by key
    left_out: module -> why it is not in the file; itemsize: bytes of a number in the file
    before: bytes of the file that was converted
    """

    modules: list[Made]
    format: str
    other: dict[str, Tensor] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    before: int = 0
    itemsize: int = 4
    written: bool = True

    @property
    def energy(self) -> float:
        """The share of the squares of all updates that is kept."""
        total = sum(made.squared for made in self.modules)
        return sum(made.squared * made.energy for made in self.modules) / total if total else 1.0

    @property
    def enough(self) -> bool:
        """Whether ``ENOUGH`` of the energy is kept, and nothing is left out."""
        return self.energy >= ENOUGH

    @property
    def bytes(self) -> int:
        others = sum(tensor.numel() * tensor.element_size() for tensor in self.other.values())
        return sum(made.numel for made in self.modules) * self.itemsize + others

    def note_rank_above(self, keep: Keep) -> None:
        """Note a rank that was asked for and is above that of every module."""
        largest = max((made.rank or 0 for made in self.modules), default=0)
        if keep.rank is not None and keep.rank > largest:
            self.notes.append(
                f"rank {keep.rank} is above that of every module, {largest} at most: a lower one is as near"
            )

    def kept(self) -> list[tuple[ModuleName, tuple[int, ...], float, float]]:
        """(name, shape, ‖ΔW‖², the share of it that is kept) of each module, for a picture."""
        return [(made.name, made.weights.shape, made.squared, made.energy) for made in self.modules]

    def text(self, lines: int = 12) -> str:
        """For a person: what the file is, then its modules by kind, the worst first."""
        forms = Counter(made.form for made in self.modules)
        kinds = ", ".join(f"{count} {form}" for form, count in forms.most_common())
        out = [
            f"{kinds}: {percent(self.energy)} of the energy kept (error {percent(sqrt(max(0.0, 1 - self.energy)))}), "
            f"{human_bytes(self.before)} -> {human_bytes(self.bytes)}"
        ]
        if not self.written:
            out.append(f"not written: under {ENOUGH:.0%} of the energy the result is unlike the original (--lossy)")
        out += [f"note: {note}" for note in self.notes]
        groups: dict[tuple[str, str, int | None], list[Made]] = {}
        for made in self.modules:
            groups.setdefault((mask_numbers(made.name.full, "*")[0], made.form, made.rank), []).append(made)
        ranked = sorted(groups.items(), key=lambda item: min(made.energy for made in item[1]))
        for (name, form, rank), found in ranked[:lines]:
            worst = min(made.energy for made in found)
            size = human_bytes(sum(made.numel for made in found) * self.itemsize)
            ranked_as = f" of rank {rank}" if rank else ""
            out.append(f"{len(found)} × {name}: {form}{ranked_as}, {percent(worst)} at least, {size}")
        if len(ranked) > lines:
            out.append(f"… and {len(ranked) - lines} more kinds of modules")
        reasons = Counter(self.left_out.values())
        out += [f"left out: {count} modules: {reason}" for reason, count in reasons.most_common()]
        return "\n".join(out)

    def as_dict(self) -> dict:
        """For a program, ready for JSON."""
        return {
            "energy": self.energy,
            "bytes": self.bytes,
            "before": self.before,
            "written": self.written,
            "format": self.format,
            "notes": self.notes,
            "left_out": self.left_out,
            "modules": [
                {
                    "name": made.name.full,
                    "form": made.form,
                    "rank": made.rank,
                    "energy": made.energy,
                    "norm": sqrt(made.squared),
                    "bytes": made.numel * self.itemsize,
                    "sources": list(made.sources),
                    "note": made.note,
                }
                for made in self.modules
            ],
        }


def header_size(names: Sequence[str]) -> int:
    """About how many bytes a file's header has for modules of these names, of three tensors each."""
    return sum(3 * (len(name) + _ENTRY) for name in names)
