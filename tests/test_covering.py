"""The cases that run by default meet every value, or every pair of values, that the whole product has."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from tests.covering import covering

ROWS = [list(zip("abcd", values, strict=True)) for values in product(range(2), range(3), range(4), range(5))]


@pytest.mark.parametrize(("strength", "most"), [(1, 5), (2, 24)])
def test_every_combination_is_met_by_few_cases(strength, most):
    kept = covering(ROWS, strength)
    wanted = {combination for row in ROWS for combination in combinations(row, strength)}
    assert {combination for index in kept for combination in combinations(ROWS[index], strength)} == wanted
    assert len(kept) <= most < len(ROWS)


def test_values_take_turns_with_each_other():
    rows = [[("architecture", a), ("naming", b)] for a, b in product(range(12), range(4))]
    met = [rows[index][1] for index in covering(rows, 1)]
    assert len(met) == 12 and all(met.count(("naming", b)) == 3 for b in range(4))


def test_one_case_is_always_kept():
    assert covering([[("a", 1)]], 2) == {0}
