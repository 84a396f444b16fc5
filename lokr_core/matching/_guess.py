"""Modules of a file whose names no table knows, matched by the endings of a model's names: a guess."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ..adapter import Adapter


def guess(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str] | None:
    """Module of the file -> module of the model, by its ending: one prefix is removed from, or added to, all names.
    Returns None unless every module then has a weight of its own that it fits.

    shapes: of the model's parameters, by name
    """
    names = {module: adapter.names[module] for module in adapter}
    sign = "_" if any(name.flattened for name in names.values()) else "."
    modules = [name.removesuffix(".weight") for name in shapes if name.endswith(".weight")]
    known = {module.replace(".", sign): module for module in modules}
    if not names or len(names) > len(known):
        return None
    paths = {module: name.path.replace(".", sign) for module, name in names.items()}
    for cut, put in _prefixes(next(iter(paths.values())), known, sign):
        places: dict[str, str] = {}
        for module, path in paths.items():
            place = known.get(put + path[len(cut) :]) if path.startswith(cut) else None
            if place is None or not adapter[module].fits(shapes[f"{place}.weight"]):
                break
            places[module] = place
        else:
            if len(set(places.values())) == len(places):
                return places
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
