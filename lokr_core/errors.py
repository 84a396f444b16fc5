"""Errors that say which file and module, what was expected, what was found, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["LoKrError", "LoKrFileError", "LoKrMatchError", "LoKrShapeError", "LoKrValueError"]


class LoKrError(Exception):
    """Base of all errors of this library.

    ``problem`` is one sentence. The other fields are optional; ``str()`` shows each on a line of its own, and hosts
    with a layout of their own read them as attributes.

    >>> print(LoKrError("The ranks differ", expected=4, found=8))
    The ranks differ
      expected: 4
      found: 8
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
        fields = {"file": self.file, "module": self.module, "expected": self.expected, "found": self.found}
        lines = [f"  {k}: {v}" for k, v in (fields | {"what to do": self.hint}).items() if v is not None]
        return "\n".join([self.problem, *lines])


class LoKrFileError(LoKrError, ValueError):
    """The file is damaged, incomplete, or not a LoKr adapter."""


class LoKrShapeError(LoKrError, ValueError):
    """The shapes of tensors contradict each other, or do not fit the weight."""


class LoKrValueError(LoKrError, ValueError):
    """A value is out of range: NaN, Inf, an unknown option."""


class LoKrMatchError(LoKrError, LookupError):
    """Modules of the adapter, or all of them, do not belong to the model."""


@contextmanager
def blame(*, file: object = None, module: str | None = None, hint: str | None = None) -> Iterator[None]:
    """Add ``file``, ``module`` and ``hint`` to a LoKrError that leaves the block, unless it has its own.

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
        error.hint = error.hint or hint
        raise
