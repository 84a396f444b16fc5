"""Updates under the names of another format, as rows of them: what a fused weight holds goes to its parts, and back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from ..adapter import Adapter, LoKrWeights
from ..conversion import Regrouped
from ..matching import Match, Report, Target, foreign_places, resolve
from ..modules import Spelling
from ..names import Slot
from ._book import Book


def regroup(adapter: Adapter, spelling: Spelling, target: Target) -> tuple[list[Regrouped], dict[str, str], Report]:
    """Every LoKr module of ``adapter`` under the names that a format gives the weights of ``target``.

    Returns (the modules of the new format, old name -> new name of the foreign modules, the report of what has a
    place). Modules without a place, or whose weight has no name in the format, are refused in the report.
    """
    matches, report = resolve(adapter, target)
    book = Book(target.models, spelling, split=True)
    by_module: dict[str, list[Match]] = defaultdict(list)
    for match in matches:
        by_module[match.module].append(match)
    found: dict[str, Regrouped] = {}
    nameless: dict[str, str] = {}
    for module, weights in adapter.items():
        places = by_module.get(module)
        if not places:
            continue
        slots = tuple(match.slot for match in places)
        weights = weights.fit((weights.shape[0], *target.shape_of(slots[0])[1:]))
        name = book.names.get(slots)
        if name is not None:
            each = found.setdefault(name.full, Regrouped(name, weights.shape))
            each.pieces.append((0, weights))
            each.sources[module] = None
            continue
        missing = [match.weight for match in places if not _distribute(match, book, target, found)]
        if missing:
            nameless[module] = f"this format has no name for {missing[0]}"
    report.refuse(nameless)
    slot_of = foreign_places(adapter, target)
    foreign = {module: book.names[(slot,)].full for module, slot in slot_of.items() if (slot,) in book.names}
    return list(found.values()), foreign, report


def _distribute(match: Match, book: Book, target: Target, found: dict[str, Regrouped]) -> bool:
    """Give the rows of one match to the format's modules that hold them. Returns False if it has no name for one."""
    module, total = match.slot.module, target.shape_of(Slot(match.slot.module, parameter=match.slot.parameter))
    covered = 0
    for name, slots in book.covering(module):
        rows = _rows_of(slots, target)
        for start, length, to in _moves(slots, module, total[0]):
            pieces = list(_within(match.pieces, start, length, to))
            if not pieces:
                continue
            each = found.setdefault(name.full, Regrouped(name, (rows, *pieces[0][1].shape[1:])))
            each.pieces += pieces
            each.sources[match.module] = None
            covered += sum(weights.shape[0] for _, weights in pieces)
    return covered == sum(weights.shape[0] for _, weights in match.pieces)


def _rows_of(slots: Iterable[Slot], target: Target) -> int:
    """How many rows the module has whose update goes to ``slots``."""
    slots = tuple(slots)
    if all(slot.source_rows for slot in slots):
        return max(sum(slot.source_rows) for slot in slots if slot.source_rows)
    return target.shape_of(slots[0])[0]


def _moves(slots: Iterable[Slot], module: str, total: int) -> Iterator[tuple[int, int, int]]:
    """(first row of the weight, how many, first row of the named module) for the parts of ``slots`` on ``module``."""
    for slot in slots:
        if slot.module != module:
            continue
        start, length = slot.rows or (0, total)
        to = slot.source_rows[0] if slot.source_rows else 0
        if slot.swap:
            half = length // 2
            yield start + half, half, to
            yield start, half, to + half
        else:
            yield start, length, to


def _within(
    pieces: Iterable[tuple[int, LoKrWeights]], start: int, length: int, to: int
) -> Iterator[tuple[int, LoKrWeights]]:
    """Those rows of ``pieces`` that lie in start:start+length, moved so that ``start`` becomes ``to``."""
    for row, weights in pieces:
        first, last = max(row, start), min(row + weights.shape[0], start + length)
        if first >= last:
            continue
        if (first, last) == (row, row + weights.shape[0]):
            yield to + first - start, weights
        else:
            for offset, part in weights.rows(first - row, last - first):
                yield to + first - start + offset, part
