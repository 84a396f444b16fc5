"""Strengths as people write them, and pictures side by side."""

from __future__ import annotations

import numpy as np
import pytest

from lokr_core import LoKrValueError
from lokr_core.display import Grid
from lokr_core.display._grid import MAX_IMAGES
from lokr_core.strengths import parse_strengths


@pytest.mark.parametrize(
    ("text", "strengths"),
    [
        ("0, 0.5, 1", (0, 0.5, 1)),
        ("1", (1,)),
        ("-1; 2\n3,", (-1, 2, 3)),
        ("0:1:0.25", (0, 0.25, 0.5, 0.75, 1)),
        ("0:0.3:0.1", (0, 0.1, 0.2, 0.3)),
        ("1:0:-0.5", (1, 0.5, 0)),
        ("0:1:0.4", (0, 0.4, 0.8)),
        ("2:2:1, 5", (2, 5)),
    ],
)
def test_strengths(text, strengths):
    assert parse_strengths(text) == strengths


@pytest.mark.parametrize(
    "text", ["", " , ", "x", "nan", "inf", "0:1", "0:1:0", "1:0:0.1", "0:1:0.001", "0:x:1", "1," * 65]
)
def test_what_is_none_is_told(text):
    with pytest.raises(LoKrValueError):
        parse_strengths(text)


def picture(value: int) -> np.ndarray:
    return np.full((40, 60, 3), value, np.uint8)


def test_each_picture_stands_in_its_row_and_column_below_its_labels():
    grid = Grid.of("style", (0, 0.5, 1), "other", (-1, 1))
    image = grid.assemble([picture(10 * number + 5) for number in range(6)])
    left, top = image.shape[1] - 180, image.shape[0] - 80
    for row in range(2):
        for column in range(3):
            cell = image[top + 40 * row : top + 40 * (row + 1), left + 60 * column : left + 60 * (column + 1)]
            assert (cell == 10 * (3 * row + column) + 5).all()
    assert (image[:top] == 0).any() and (image[:, :left] == 0).any()
    assert (grid.columns, grid.rows, len(grid)) == (("0", "0.5", "1"), ("-1", "1"), 6)


def test_one_axis_has_no_labels_at_the_side():
    image = Grid.of("s", (0, 1)).assemble([picture(0), picture(255)])
    assert image.shape[1] == 120


def test_a_grid_takes_as_many_pictures_as_it_has_places_and_of_one_size():
    grid = Grid.of("style", (0, 1))
    with pytest.raises(LoKrValueError, match="one image for each cell"):
        grid.assemble([picture(0)])
    with pytest.raises(LoKrValueError, match="differ in size"):
        grid.assemble([picture(0), picture(0)[:10]])
    with pytest.raises(LoKrValueError, match="too many"):
        Grid.of("style", range(MAX_IMAGES), "other", (0, 1))
