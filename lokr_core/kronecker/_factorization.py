"""How a dimension is split into the sizes of two Kronecker factors."""

from __future__ import annotations

import math


def factorization(dimension: int, factor: int = -1, order: str = "peft") -> tuple[int, int]:
    """Split ``dimension`` into ``(a, b)`` with ``a * b == dimension``.

    ``factor`` > 0 is one of the two if it divides ``dimension``; otherwise ``a`` is the largest divisor up to
    ``factor`` and the square root of ``dimension``. -1 gives the most balanced pair.

    ``order="peft"`` is PEFT's ``tuners/lokr/layer.py``: a ``factor`` that divides comes first, even if larger.
    ``order="lycoris"`` is LyCORIS' ``functional/general.py``: the smaller always comes first.

    >>> factorization(1024), factorization(250, 4), factorization(127, 8)
    ((32, 32), (2, 125), (1, 127))
    >>> factorization(96, 16), factorization(96, 16, order="lycoris")
    ((16, 6), (6, 16))

    Raises ValueError if ``dimension`` is below 1, ``factor`` is 0 or below -1, or one of them is not an int.
    """
    for name, value in (("dimension", dimension), ("factor", factor)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{name} must be an int, got {value!r} ({type(value).__name__})")
    if dimension < 1:
        raise ValueError(f"dimension must be at least 1, got {dimension}")
    if factor == 0 or factor < -1:
        raise ValueError(f"factor must be -1 (balanced) or at least 1, got {factor}")
    if order not in ("peft", "lycoris"):
        raise ValueError(f"order must be 'peft' or 'lycoris', got {order!r}")

    if factor > 0 and dimension % factor == 0:
        pair = factor, dimension // factor
    else:
        limit = dimension if factor == -1 else factor
        # The sum of a pair of divisors falls until the pair is balanced, so the last divisor at or below the square
        # root and the limit is the one both libraries' searches end at.
        small = max(d for d in range(1, math.isqrt(dimension) + 1) if d <= limit and dimension % d == 0)
        pair = small, dimension // small
    return (min(pair), max(pair)) if order == "lycoris" else pair
