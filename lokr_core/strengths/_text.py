"""Lists of strengths, written as text."""

from __future__ import annotations

import math
import re

from ..errors import LoKrValueError

MAX_STRENGTHS = 64
"""Limit of strengths in a list."""

SLIDER_LIMIT = 2.0
"""Sliders of strengths go from -SLIDER_LIMIT to SLIDER_LIMIT; its twin is in web/slider.js."""

_EXAMPLES = "numbers such as 0, 0.5, 1 or 0:1:0.25"
_RANGE = re.compile(r"\s*([^\s:]+)\s*:\s*([^\s:]+)\s*:\s*([^\s:]+)\s*")


def parse_strengths(text: str) -> tuple[float, ...]:
    """Numbers and ranges ``from:to:step`` (both ends included), separated by commas, semicolons or lines.

    Raises LoKrValueError if an entry is malformed, the text is empty, or there are more than ``MAX_STRENGTHS``.

    >>> parse_strengths("-1, 0:1:0.25")
    (-1.0, 0.0, 0.25, 0.5, 0.75, 1.0)
    """
    strengths: list[float] = []
    for piece in split_entries(text):
        strengths += _range(piece) if ":" in piece else [_strength(piece, piece)]
        if len(strengths) > MAX_STRENGTHS:
            raise LoKrValueError("Too many strengths", expected=f"at most {MAX_STRENGTHS}", found=text)
    if not strengths:
        raise LoKrValueError("No strengths given", expected=_EXAMPLES, found=repr(text))
    return tuple(strengths)


def split_entries(text: str, separators: str = ",;\n") -> list[str]:
    """The entries of a list, without spaces around them; empty ones are skipped.

    >>> split_entries("IN:0.2, MID:1;")
    ['IN:0.2', 'MID:1']
    """
    pieces = (piece.strip() for piece in re.split(f"[{separators}]", text))
    return [piece for piece in pieces if piece]


def finite(text: str) -> float | None:
    """The number in ``text``. Returns None if it is not a finite number."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _strength(text: str, piece: str) -> float:
    number = finite(text)
    if number is None:
        raise LoKrValueError("A strength must be a finite number", expected=_EXAMPLES, found=piece)
    return number


def _range(piece: str) -> list[float]:
    found = _RANGE.fullmatch(piece)
    if found is None:
        raise LoKrValueError("Not a range of strengths", expected="from:to:step, for example 0:1:0.25", found=piece)
    first, last, step = (_strength(number, piece) for number in found.groups())
    count = (last - first) / step if step else -1.0
    if count < 0 or count > MAX_STRENGTHS:
        expected = f"from:to:step with at most {MAX_STRENGTHS} steps"
        raise LoKrValueError("This range is endless or too long", expected=expected, found=piece)
    # Rounded, so that 0.1 + 0.2 gives 0.3; the tolerance includes an end that is met up to rounding.
    return [round(first + step * number, 10) for number in range(int(count + 1e-9) + 1)]
