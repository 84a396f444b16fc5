"""What became of each module of a file: one object for the library, the command and the hosts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..adapter import Adapter
from ..errors import LoKrMatchError
from ..names import base_model_of, guesses, mask_numbers

APPLIED, HANDED, REFUSED = "applied", "handed to the host", "refused"
_STATUSES = (REFUSED, HANDED, APPLIED)  # the order in a report
TWO_EXPERTS = "the file holds two experts, of high and of low noise, and the model does not tell which one it is"
"""Why a module is refused that belongs to one of two experts."""


@dataclass(frozen=True)
class Outcome:
    """What became of one module of a file.

    status: applied, handed or refused; where: the weights that it changes
    reason: why it was refused, the same text for all modules that fail alike; detail: this module's own
    note: what was assumed in reading it
    """

    module: str
    status: str
    kind: str = "LoKr"
    where: str = ""
    reason: str = ""
    note: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Reason:
    """Why modules were refused: the reason, how many have it, and the first few of them."""

    reason: str
    count: int
    examples: tuple[str, ...]


@dataclass
class Report:
    """Every module of a file: ``applied``, ``handed`` (to the host's own loader) or ``refused`` with its reason.

    notes: what was assumed, or is suspicious; mismatch: those of them that may explain why modules were refused
    modes: by part of the model ("model", "clip"), how a host applied the file and why, as (mode, why): ``mode`` is
    "merge", "live", or "" if the part stayed as it was
    architectures: the titles of the model's, as far as they are known
    """

    adapter: Adapter
    entries: list[Outcome] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    mismatch: list[str] = field(default_factory=list)
    modes: dict[str, tuple[str, str]] = field(default_factory=dict)
    architectures: list[str] = field(default_factory=list)

    def add(self, module: str, status: str, **details: str) -> None:
        self.entries.append(Outcome(module, status, **details))

    def _with(self, status: str) -> list[Outcome]:
        return [entry for entry in self.entries if entry.status == status]

    @property
    def applied(self) -> list[Outcome]:
        return self._with(APPLIED)

    @property
    def handed(self) -> list[Outcome]:
        return self._with(HANDED)

    @property
    def refused(self) -> list[Outcome]:
        return self._with(REFUSED)

    @property
    def complete(self) -> bool:
        """Whether no module was refused."""
        return not self.refused

    @property
    def headline(self) -> str:
        """One line: "236 of 236 modules applied"."""
        total, refused = len(self.entries), len(self.refused)
        return f"{total - refused} of {total} modules applied" + (f", {refused} refused" if refused else "")

    @property
    def remarks(self) -> list[str]:
        """The notes of the file and of the report, then the modes, with their part where parts differ."""
        lines = {part: ": ".join(text for text in mode if text) for part, mode in self.modes.items()}
        if len(set(lines.values())) > 1:
            lines = {part: f"{part}: {line}" for part, line in lines.items() if line}
        return [*self.adapter.notes, *self.notes, *dict.fromkeys(line for line in lines.values() if line)]

    def reasons(self, examples: int = 3) -> list[Reason]:
        """Why modules were refused, the most frequent reason first."""
        by_reason: dict[str, list[Outcome]] = {}
        for entry in self.refused:
            by_reason.setdefault(entry.reason, []).append(entry)
        ranked = sorted(by_reason.items(), key=lambda item: -len(item[1]))
        return [Reason(why, len(found), tuple(entry.module for entry in found[:examples])) for why, found in ranked]

    def hand_over(self, modules: Iterable[str]) -> None:
        """Mark those of ``modules`` that are not LoKr as handed to the host's own loader."""
        taken = set(modules)
        self.entries = [
            replace(entry, status=HANDED, reason="") if entry.module in taken and entry.kind != "LoKr" else entry
            for entry in self.entries
        ]

    def refuse(self, reasons: Mapping[str, str]) -> None:
        """Mark modules that were applied as refused after all: module -> reason."""
        self.entries = [
            replace(entry, status=REFUSED, where="", reason=reasons[entry.module])
            if entry.module in reasons and entry.status == APPLIED
            else entry
            for entry in self.entries
        ]

    def raise_if_nothing_matched(self) -> None:
        """Raises LoKrMatchError if all modules were refused."""
        refused = self.refused
        if self.entries and len(refused) == len(self.entries):
            if any(entry.reason == TWO_EXPERTS for entry in refused):
                raise LoKrMatchError(
                    "The file holds two experts, of high and of low noise, and none was chosen",
                    file=self.adapter.path,
                    expected="expert=high or expert=low",
                    found="a model that does not tell which of the two it is",
                    hint="choose the one that the model is: expert=high for the first steps, expert=low for the last",
                )
            raise LoKrMatchError(
                f"{self._whose()}None of the {len(refused)} modules of this adapter belongs to this model",
                file=self.adapter.path,
                expected=f"modules such as {refused[0].module}",
                found=": ".join(part for part in (refused[0].reason, refused[0].detail) if part),
                hint="use the adapter with the base model it was trained for",
            )

    def _whose(self) -> str:
        """For which base model the file looks, and which model this is, to begin a message; "" if neither is known."""
        names, shapes = self.adapter.names, {module: weights.shape for module, weights in self.adapter.items()}
        base = base_model_of(names, shapes, self.adapter.metadata)
        if not base.title and not self.architectures:
            return ""
        looks = "this looks like an adapter for" if base.guessed else "its metadata name the base model"
        file = f"{looks} {base.title}" if base.title else "the file does not tell its base model"
        model = f"the model is {' with '.join(self.architectures)}" if self.architectures else "the model is unknown"
        other = " of another size or version" if base.title in self.architectures else ""
        return f"Wrong base model: {file}; {model}{other}. "

    def groups(self, coarse: bool = False) -> list[tuple[int, str, Outcome]]:
        """Entries that differ in their block numbers alone, together: (how many, their common name, one of them).

        ``coarse``: by their names up to the first block number alone, for files with many kinds of layers.
        """

        def masked(entry: Outcome) -> tuple[str, str, str, str]:
            name = mask_numbers(entry.module, "*")[0]
            if coarse and "*" in name:
                name = f"{name[: name.index('*') + 1]}…"
            return name, entry.status, entry.kind, re.sub(r"\d+", "*", entry.reason)

        found: dict[tuple[str, str, str, str], list[Outcome]] = {}
        for entry in self.entries:
            found.setdefault(masked(entry), []).append(entry)
        ranked = sorted(found.items(), key=lambda item: (_STATUSES.index(item[0][1]), -len(item[1])))
        return [(len(entries), key[0], entries[0]) for key, entries in ranked]

    def text(self, lines: int = 12) -> str:
        """The report for a person: the headline, what was assumed, then groups of modules, the refused ones first."""
        out = [self.headline]
        out += [f"note: {note}" for note in self.remarks]
        assumed = Counter(note for entry in self.entries for note in entry.note.split("; ") if note)
        out += [f"note: {note} ({count} modules)" for note, count in assumed.most_common(3)]
        groups = self.groups()
        if len(groups) > lines:
            groups = self.groups(coarse=True)
        for count, name, entry in groups[:lines]:
            detail = ": ".join(part for part in (entry.status, entry.reason) if part)
            example = f" ({entry.detail})" if entry.detail else ""
            out.append(f"{count} × {name} [{entry.kind}]: {detail}{example}")
        if len(groups) > lines:
            rest = sum(count for count, _, _ in groups[lines:])
            out.append(f"… and {rest} more modules in {len(groups) - lines} groups")
        return "\n".join(out)

    def as_dict(self) -> dict:
        """The report for a program, ready for JSON."""
        return {
            "headline": self.headline,
            "file": None if self.adapter.path is None else str(self.adapter.path),
            "producer": self.adapter.producer,
            "applied": len(self.applied),
            "handed": len(self.handed),
            "refused": len(self.refused),
            "notes": self.remarks,
            "modules": [vars(entry) for entry in self.entries],
        }

    @classmethod
    def merged(cls, adapter: Adapter, reports: Iterable[Report]) -> Report:
        """One report for several targets (a denoiser, a text encoder): a module is refused if every target refused it.

        A module may hold LoKr and something else too; each has an entry of its own.
        """
        reports = list(reports)
        found: dict[tuple[str, str], list[Outcome]] = {}
        for entry in (entry for report in reports for entry in report.entries):
            found.setdefault((entry.module, entry.kind), []).append(entry)
        best = [max(entries, key=lambda entry: _STATUSES.index(entry.status)) for entries in found.values()]
        merged = cls(adapter, best)
        merged.architectures = list(dict.fromkeys(title for report in reports for title in report.architectures))
        # A module that one target refused and another took is not a mismatch.
        settled = {note for report in reports for note in report.mismatch} if merged.complete else set()
        notes = dict.fromkeys(note for report in reports for note in report.notes)
        merged.notes = [note for note in notes if note not in settled]
        return merged


def mismatch(adapter: Adapter, architectures: Sequence[str]) -> list[str]:
    """A note on what a person may have confused, if the adapter looks like one for another model."""
    if not architectures:
        return []
    stated = adapter.metadata.get("ss_base_model_version") or adapter.metadata.get("modelspec.architecture")
    other, here = looks_like(adapter, architectures), " with ".join(architectures)
    if other:
        return [f"this looks like an adapter for {other}; the model is {here}"]
    return [f"the file names {stated} as its base model; the model is {here}"] if stated else []


def looks_like(adapter: Adapter, architectures: Sequence[str]) -> str:
    """The architecture that the file's names fit best, "" if the model is one that they fit as well, or unknown."""
    shapes = {module: weights.shape for module, weights in adapter.items()}
    guessed = guesses({n.path: shapes[m] for m, n in adapter.names.items() if n.component in ("", "unet")})
    if not guessed or not architectures or set(guessed).intersection(architectures):
        return ""
    return base_model_of(adapter.names, shapes, adapter.metadata).title
