"""A progress bar on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from tqdm import tqdm

Progress = Callable[[int, int], None]
"""Called with (done, total) as work goes on; an exception that it raises ends the work."""


@contextmanager
def progress_bar(label: str, unit: str = "B", stream: TextIO | None = None) -> Iterator[Progress]:
    """A bar while the block runs: ``with progress_bar("writing") as progress: progress(done, total)``.

    It appears after a second, only if ``stream`` (stderr by default) is a terminal, and is wiped at the end.
    """
    # miniters=0: redraw by the time that has passed, not by a guess of how many steps fit into it.
    with tqdm(
        desc=label, unit=unit, unit_scale=unit == "B", delay=1, leave=False, miniters=0, disable=None, file=stream
    ) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
