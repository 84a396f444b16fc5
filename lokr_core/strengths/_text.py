"""Lists of strengths as people write them."""

from __future__ import annotations

import re

from ..adapter import check_strength
from ..errors import LoKrValueError

MOST = 64
"""Pictures in a grid, or strengths in a list."""


_RANGE = re.compile(r"\s*([^\s:]+)\s*:\s*([^\s:]+)\s*:\s*([^\s:]+)\s*")


def parse_strengths(text: str) -> tuple[float, ...]:
    """Numbers with commas, semicolons or lines between, and ranges ``from:to:step`` that take both ends in.

    Raises LoKrValueError for what is no number, for none at all, and for more than ``MOST``.

    >>> parse_strengths("-1, 0:1:0.25")
    (-1.0, 0.0, 0.25, 0.5, 0.75, 1.0)
    """
    strengths: list[float] = []
    for piece in (piece.strip() for piece in re.split(r"[,;\n]", text)):
        if piece:
            strengths += _range(piece) if ":" in piece else [_finite(piece, piece)]
        if len(strengths) > MOST:
            raise LoKrValueError("These are too many strengths", expected=f"{MOST} at most", found=text)
    if not strengths:
        raise LoKrValueError("There is no strength", expected="numbers such as 0, 0.5, 1 or 0:1:0.25", found=repr(text))
    return tuple(strengths)


def _finite(text: str, piece: str) -> float:
    try:
        return check_strength(text)
    except LoKrValueError as error:
        error.expected, error.found = "numbers such as 0, 0.5, 1 or 0:1:0.25", piece
        raise


def _range(piece: str) -> list[float]:
    found = _RANGE.fullmatch(piece)
    if found is None:
        raise LoKrValueError("This is no range of strengths", expected="from:to:step, 0:1:0.25", found=piece)
    first, last, step = (_finite(number, piece) for number in found.groups())
    count = (last - first) / step if step else -1.0
    if count < 0 or count > MOST:
        raise LoKrValueError(
            "This range has no end, or too many steps", expected=f"from:to:step of {MOST} steps at most", found=piece
        )
    # Rounded, for 0.1 + 0.2 is not what a person wrote; the end is in where it is met but for rounding.
    return [round(first + step * number, 10) for number in range(int(count + 1e-9) + 1)]
