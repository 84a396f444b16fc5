"""Errors that say which file and module, what was expected, what was found, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["LoKrError", "LoKrFileError", "LoKrMatchError", "LoKrShapeError", "LoKrValueError"]


class LoKrError(Exception):
    """Base of all errors of this library.

    ``problem`` is one sentence; the other fields are shown on lines of their own where they are given, and stay
    readable as attributes for hosts that lay them out themselves.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: object = None,
        module: str | None = None,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ):
        self.problem, self.file, self.module = problem, file, module
        self.expected, self.found, self.hint = expected, found, hint
        super().__init__(problem)

    def __str__(self) -> str:
        fields = [
            ("file", self.file),
            ("module", self.module),
            ("expected", self.expected),
            ("found", self.found),
            ("what to do", self.hint),
        ]
        return "\n".join([self.problem] + [f"  {name}: {value}" for name, value in fields if value is not None])


class LoKrFileError(LoKrError, ValueError):
    """A file that cannot be trusted or holds no LoKr."""


class LoKrShapeError(LoKrError, ValueError):
    """Tensors whose shapes do not belong together, or do not fit the weight they are for."""


class LoKrValueError(LoKrError, ValueError):
    """A number that cannot be computed with: NaN, Inf, a strength that is no number."""


class LoKrMatchError(LoKrError, LookupError):
    """An adapter none of whose modules belongs to the model."""


@contextmanager
def blame(*, file: object = None, module: str | None = None) -> Iterator[None]:
    """Name ``file`` and ``module`` in a LoKrError that leaves the block, unless it names them already.

    >>> with blame(module="mid.proj"):
    ...     raise LoKrShapeError("The ranks differ")
    Traceback (most recent call last):
    ...
    lokr_core.errors.LoKrShapeError: The ranks differ
      module: mid.proj
    """
    try:
        yield
    except LoKrError as error:
        error.file = error.file or file
        error.module = error.module or module
        raise
