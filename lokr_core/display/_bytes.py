"""Numbers of bytes as text."""


def human_bytes(count: float) -> str:
    """``count`` bytes with a decimal unit.

    >>> human_bytes(512), human_bytes(5_300_000), human_bytes(17e9)
    ('512 B', '5.3 MB', '17.0 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
