"""A progress bar for people: on a terminal only, and only for what takes more than a second."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

Progress = Callable[[int, int], None]
"""Told (done, total) as work goes on; an exception it raises ends the work."""

_DELAY, _INTERVAL, _WIDTH = 1.0, 0.1, 30  # seconds until it appears, seconds between drawings, characters


def human_bytes(count: float) -> str:
    """A number of bytes for a person.

    >>> human_bytes(512), human_bytes(5_300_000), human_bytes(17e9)
    ('512 B', '5.3 MB', '17.0 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


class ProgressBar:
    """``with ProgressBar("writing") as progress: progress(done, total)``; nothing is shown where ``stream`` (stderr)
    is no terminal. The bar is wiped at the end, so that what is printed next stands alone."""

    def __init__(self, label: str, show: Callable[[float], str] = human_bytes, stream: TextIO | None = None):
        self._label, self._show = label, show
        self._stream = sys.stderr if stream is None else stream
        self._next = time.monotonic() + _DELAY if self._stream.isatty() else float("inf")
        self._drawn = False

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._drawn:
            self._stream.write("\r\033[K")
            self._stream.flush()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next, self._drawn = now + _INTERVAL, True
        part = done / total if total else 1.0
        bar = "█" * round(part * _WIDTH)
        line = f"{self._label} {bar:░<{_WIDTH}} {part:4.0%}  {self._show(done)} of {self._show(total)}"
        self._stream.write(f"\r\033[K{line}")
        self._stream.flush()
