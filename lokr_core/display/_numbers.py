"""Numbers as a person reads them."""

from __future__ import annotations


def human_count(count: int) -> str:
    """``count`` in full up to a million, then with three digits.

    >>> human_count(4872), human_count(4_423_680), human_count(12_000_000_000)
    ('4,872', '4.42 million', '12 billion')
    """
    for size, word in ((10**9, "billion"), (10**6, "million")):
        if count >= size:
            return f"{count / size:.3g} {word}" if count < 1000 * size else f"{count / size:,.0f} {word}"
    return f"{count:,}"


def percent(share: float) -> str:
    """A share of 1 with three digits; "100%" only if less than a millionth is missing.

    >>> percent(0.71321), percent(0.99996), percent(1 - 1e-9), percent(0.0570), percent(3e-7)
    ('71.3%', '99.996%', '100%', '5.7%', 'under 0.001%')
    """
    if 0 < share < 1e-5:
        return "under 0.001%"
    if 0.9995 <= share < 1 - 1e-6:
        return f"{100 * share:.4f}".rstrip("0") + "%"
    return f"{100 * share:.3g}%"


def rounded(text: str) -> str:
    """A number that was written with all its digits, with four; any other text as it is.

    >>> rounded("0.00030000000000000003"), rounded("1e-05"), rounded("lycoris.kohya"), rounded("123456789")
    ('0.0003', '1e-05', 'lycoris.kohya', '123456789')
    """
    try:
        number = float(text)
    except ValueError:
        return text
    return f"{number:.4g}" if "." in text and len(text) > 8 else text
