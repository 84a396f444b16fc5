"""A dimension is split as PEFT and LyCORIS split it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lokr_core import factorization

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "factorization.json").read_text())


@pytest.mark.parametrize("order", ["peft", "lycoris"])
def test_equals_every_recorded_result(order):
    expected = {key: tuple(pair) for key, pair in RECORDED[order].items()}
    found = {key: factorization(*map(int, key.split(",")), order=order) for key in expected}
    assert len(expected) > 300
    assert found == expected


@pytest.mark.parametrize("factor", [-1, 1, 2, 3, 8, 31, 1000])
def test_equals_the_installed_libraries(factor):
    peft = pytest.importorskip("peft.tuners.lokr.layer")
    lycoris = pytest.importorskip("lycoris.functional.general")
    for dimension in range(1, 400):
        assert factorization(dimension, factor) == peft.factorization(dimension, factor)
        assert factorization(dimension, factor, order="lycoris") == lycoris.factorization(dimension, factor)


def test_peft_is_the_order_without_a_word():
    assert factorization(96, 16) == (16, 6)


@pytest.mark.parametrize(
    "arguments,said",
    [
        ((0,), "dimension must be at least 1, got 0"),
        ((-4,), "dimension must be at least 1, got -4"),
        ((8, 0), "factor must be -1 (balanced) or at least 1, got 0"),
        ((8, -2), "factor must be -1 (balanced) or at least 1, got -2"),
        ((8, 2.0), "factor must be an int, got 2.0 (float)"),
        ((8, "2"), "factor must be an int, got '2' (str)"),
        ((8, None), "factor must be an int, got None (NoneType)"),
        ((8, True), "factor must be an int, got True (bool)"),
        ((8.0,), "dimension must be an int, got 8.0 (float)"),
        ((8, 2, "kohya"), "order must be 'peft' or 'lycoris', got 'kohya'"),
    ],
)
def test_bad_arguments_are_named(arguments, said):
    with pytest.raises(ValueError) as error:
        factorization(*arguments)
    assert said in str(error.value)


def test_a_large_prime_takes_no_time_to_speak_of():
    assert factorization(2**31 - 1) == (1, 2**31 - 1)
