"""Modules of a file whose names no table knows, matched by the endings of a model's names: a guess."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..adapter import Adapter
from ..names import Slot
from ._match import Match, match
from ._target import Target


def guess(adapter: Adapter, target: Target) -> dict[str, Match] | None:
    """Every module matched by its ending, None if that fails: one prefix is removed from, or added to, all names."""
    names = {module: adapter.names[module] for module in adapter}
    sign = "_" if any(name.flattened for name in names.values()) else "."
    modules = [name.removesuffix(".weight") for name in target.shapes if name.endswith(".weight")]
    known = {module.replace(".", sign): module for module in modules}
    if not names or len(names) > len(known):
        return None
    paths = {module: name.path.replace(".", sign) for module, name in names.items()}
    for cut, put in _prefixes(next(iter(paths.values())), known, sign):
        matches: dict[str, Match] = {}
        for module, path in paths.items():
            place = known.get(put + path[len(cut) :]) if path.startswith(cut) else None
            if place is None or not adapter[module].fits(target.shapes[f"{place}.weight"]):
                break
            matches[module] = match(module, place, Slot(place), adapter[module], target)
        else:
            if len({match.weight for match in matches.values()}) == len(matches):
                return matches
    return None


def _prefixes(path: str, known: Iterable[str], sign: str) -> Iterator[tuple[str, str]]:
    """(prefix to remove from ``path``, prefix to add to the rest) that lead to a known name, the shortest cut first."""
    pieces = path.split(sign)
    for count in range(len(pieces)):
        rest = sign.join(pieces[count:])
        cut = path[: len(path) - len(rest)]
        for name in known:
            if name == rest or name.endswith(sign + rest):
                yield cut, name[: len(name) - len(rest)]
