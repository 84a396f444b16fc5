"""The list of calls that every handle is walked through: the core's in ``test_handles.py``, Forge's inside a Forge."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from lokr_core import Handle, LoKrError, LoKrValueError

NAN = math.nan


@dataclass(frozen=True)
class Call:
    """What is done to a handle, the strengths of two modules after it, and the error that it raises."""

    what: str
    do: Callable[[Handle], object]
    strengths: tuple[float, float]
    error: type[Exception] | None = None


def assign(name: str, value: object) -> Callable[[Handle], object]:
    return lambda handle: setattr(handle, name, value)


def factors(value: object) -> Callable[[Handle], object]:
    return lambda handle: handle.set_factors(value)


def calls(first: str, second: str, file_name: str) -> list[Call]:
    """The list, for a handle made with a strength of 0.5. ``file_name``: the file's name for ``first``."""
    return [
        Call("as made", lambda handle: None, (0.5, 0.5)),
        Call("another strength", assign("strength", 1.0), (1.0, 1.0)),
        Call("the same strength again", assign("strength", 1.0), (1.0, 1.0)),
        Call("text that is a number", assign("strength", "-0.25"), (-0.25, -0.25)),
        Call("NaN", assign("strength", NAN), (-0.25, -0.25), LoKrValueError),
        Call("not a number", assign("strength", "much"), (-0.25, -0.25), LoKrValueError),
        Call("None", assign("strength", None), (-0.25, -0.25), LoKrValueError),
        Call("0", assign("strength", 0), (0.0, 0.0)),
        Call("back from 0", assign("strength", 0.8), (0.8, 0.8)),
        Call("a mapping of the model's names", factors({first: 0.5}), (0.4, 0.8)),
        Call("a mapping of the file's names", factors({file_name: 2.0, second: 0.0}), (1.6, 0.0)),
        Call("a strength keeps the factors", assign("strength", 0.4), (0.8, 0.0)),
        Call("an unknown name", factors({"elsewhere": 1.0}), (0.8, 0.0), LoKrValueError),
        Call("a factor of NaN", factors({first: NAN}), (0.8, 0.0), LoKrValueError),
        Call("a function", factors(lambda name: -1.0 if name == first else 0.5), (-0.4, 0.2)),
        Call("a function that gives NaN", factors(lambda name: NAN), (-0.4, 0.2), LoKrValueError),
        Call("a function that fails", factors(lambda name: 1 / 0), (-0.4, 0.2), ZeroDivisionError),
        Call("disabled", assign("enabled", False), (0.0, 0.0)),
        Call("a strength while disabled", assign("strength", 1.5), (0.0, 0.0)),
        Call("NaN while disabled", assign("strength", NAN), (0.0, 0.0), LoKrValueError),
        Call("factors while disabled", factors({second: 2.0}), (0.0, 0.0)),
        Call("disabled twice", assign("enabled", False), (0.0, 0.0)),
        Call("enabled: what was set meanwhile", assign("enabled", True), (1.5, 3.0)),
        Call("None: 1 for all", factors(None), (1.5, 1.5)),
        Call("an empty mapping", factors({}), (1.5, 1.5)),
        Call("removed", lambda handle: handle.remove(), (0.0, 0.0)),
        Call("removed twice", lambda handle: handle.remove(), (0.0, 0.0)),
        Call("a strength after that", assign("strength", 1.0), (0.0, 0.0), LoKrError),
        Call("factors after that", factors({first: 1.0}), (0.0, 0.0), LoKrError),
        Call("enabled after that", assign("enabled", True), (0.0, 0.0), LoKrError),
    ]
