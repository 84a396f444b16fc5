"""Which cases of a test with several parameters run by default, and which under the marker ``exhaustive`` alone.

``@pytest.mark.every_value``: cases until each value of each parameter has been met.
``@pytest.mark.every_pair``: cases until each pair of values of two parameters has been met (pairwise testing).

Every test keeps at least one case. With names, ``every_pair("layer", "dtype")``, only those parameters count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from itertools import combinations

import pytest

STRENGTHS = {"every_value": 1, "every_pair": 2}


def mark_exhaustive(items: list[pytest.Item]) -> None:
    """Add the marker ``exhaustive`` to every item that its test's ``every_value`` or ``every_pair`` leaves out."""
    tests: dict[str, list[pytest.Item]] = {}
    for item in items:
        if _marker(item) and hasattr(item, "callspec"):
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for cases in tests.values():
        marker = _marker(cases[0])
        names = marker.args or tuple(cases[0].callspec.params)
        kept = covering([[(name, _value(item, name)) for name in names] for item in cases], STRENGTHS[marker.name])
        for index, item in enumerate(cases):
            if index not in kept:
                item.add_marker(pytest.mark.exhaustive)


def covering(rows: list[list[Hashable]], strength: int) -> set[int]:
    """Indices of rows that together hold every combination of ``strength`` values that any row holds.

    Greedy: the row with the most combinations that are still missing; of several the one whose values were chosen
    least often, so that every value meets different others.

    >>> sorted(covering([["a", 1], ["a", 2], ["b", 1], ["b", 2]], strength=1))
    [0, 3]
    """
    combined = [set(combinations(row, min(strength, len(row)))) for row in rows]
    missing, kept, chosen = set().union(*combined), set(), Counter()
    while missing:
        best = max(range(len(rows)), key=lambda i: (len(combined[i] & missing), -sum(chosen[v] for v in rows[i])))
        kept.add(best)
        missing -= combined[best]
        chosen.update(rows[best])
    return kept


def _marker(item: pytest.Item) -> pytest.Mark | None:
    """The item's ``every_value`` or ``every_pair``; None if it has neither."""
    return next((mark for mark in item.iter_markers() if mark.name in STRENGTHS), None)


def _value(item: pytest.Item, name: str) -> Hashable:
    """A parameter's value in a form that can be counted."""
    value = item.callspec.params[name]
    return value if isinstance(value, Hashable) else repr(value)
