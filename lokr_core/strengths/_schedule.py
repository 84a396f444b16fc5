"""Strength over a sampling run: a window, keyframes and an ease between them. Percentages of the run are 0 to 1."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import LoKrValueError
from ._text import split_entries

EASES: dict[str, Callable[[float], float]] = {
    "linear": lambda t: t,
    "ease in": lambda t: t * t,
    "ease out": lambda t: t * (2 - t),
    "ease in-out": lambda t: t * t * (3 - 2 * t),
    "hold": lambda t: 0.0,
}
STEPS, NOISE = "steps", "noise"
_TOLERANCE = 1e-5
"""Distance at which two percentages or sigmas count as equal: sigmas are fp32."""


@dataclass(frozen=True)
class Schedule:
    """The factor of a strength over a run.

    points: (percent, factor) in ascending order; the factor jumps if two percents are equal, is the first one's before
        the first point and the last one's after the last
    ease: a key of ``EASES``, the curve between two points
    start, end: the factor is exactly 0 outside of this window
    by: ``STEPS`` if percentages count the run's steps, ``NOISE`` for the host's own measure of the noise removed
    cond, uncond: additional factors for the positive and the negative prompt

    Raises LoKrValueError if a number is not finite or out of range, or the order is wrong.

    >>> fade = Schedule(keyframes("0:0, 0.5:1"), start=0.1)
    >>> fade.at(0.25), fade.at(0.75), fade.at(0.05)
    (0.5, 1.0, 0.0)
    """

    points: tuple[tuple[float, float], ...] = ((0.0, 1.0),)
    ease: str = "linear"
    start: float = 0.0
    end: float = 1.0
    by: str = STEPS
    cond: float = 1.0
    uncond: float = 1.0

    def __post_init__(self) -> None:
        for name, known in (("ease", EASES), ("by", (STEPS, NOISE))):
            if getattr(self, name) not in known:
                raise LoKrValueError(f"Unknown {name}", expected=", ".join(known), found=getattr(self, name))
        for name in ("cond", "uncond"):
            _finite(getattr(self, name), f"the factor of {name}")
        start, end = _percent(self.start, "start"), _percent(self.end, "end")
        if start > end:
            raise LoKrValueError("A schedule starts before it ends", expected="start <= end", found=f"{start} > {end}")
        if not self.points:
            raise LoKrValueError("A schedule needs at least one keyframe", found="none")
        before = 0.0
        for percent, factor in self.points:
            _percent(percent, "a keyframe")
            _finite(factor, f"the keyframe at {percent}")
            if percent < before:
                raise LoKrValueError(
                    "The keyframes are out of order", expected=f"a percentage from {before} on", found=percent
                )
            before = percent

    def at(self, percent: float) -> float:
        """The factor at ``percent`` of the run."""
        if not self.start - _TOLERANCE <= percent <= self.end + _TOLERANCE:
            return 0.0
        number = bisect_right([point[0] for point in self.points], percent + _TOLERANCE)
        if number == 0:
            return self.points[0][1]
        (p, a), (q, b) = self.points[number - 1], self.points[min(number, len(self.points) - 1)]
        if q == p:
            return b
        return a + (b - a) * EASES[self.ease](min(1.0, max(0.0, (percent - p) / (q - p))))

    @property
    def splits(self) -> bool:
        """Whether the positive and the negative prompt have different strengths."""
        return self.cond != self.uncond


def keyframes(text: str) -> tuple[tuple[float, float], ...]:
    """The (percent, factor) pairs of a text, separated by commas or lines. An empty text means 1 throughout.

    Raises LoKrValueError with the keyframe that is malformed.

    >>> keyframes("0:0, 0.3:1, 1:0.2")
    ((0.0, 0.0), (0.3, 1.0), (1.0, 0.2))
    """
    points = []
    for piece in split_entries(text, ",\n"):
        percent, sign, factor = piece.partition(":")
        try:
            points.append((float(percent), float(factor)))
        except ValueError:
            raise LoKrValueError("Not a keyframe", expected="percent:strength, as in 0.3:1", found=piece) from None
    return tuple(points) or ((0.0, 1.0),)


def step_percent(sigma: float, sigmas: Sequence[float]) -> float:
    """The percentage of a run at ``sigma``: 0 at its first step, 1 at its last, the same distance between any two.

    sigmas: those of the run in order, including the one after the last step. A sigma between two steps gives a
        percentage between theirs.

    >>> [step_percent(sigma, [8, 4, 1, 0]) for sigma in (8, 4, 2.5, 1, 0)]
    [0.0, 0.5, 0.75, 1.0, 1.0]
    """
    steps = len(sigmas) - 1
    if steps < 2:
        return 0.0
    sign = 1 if sigmas[0] >= sigmas[-1] else -1  # the sigmas of a run that adds noise ascend
    before = max((i for i in range(steps + 1) if sign * (sigmas[i] - sigma) >= -_TOLERANCE * abs(sigma)), default=0)
    if before >= steps:
        return 1.0
    here, there = sigmas[before], sigmas[before + 1]
    part = 0.0 if here == there else min(1.0, max(0.0, (here - sigma) / (here - there)))
    return min(1.0, (before + (0.0 if part < _TOLERANCE else part)) / (steps - 1))


def noise_percent(sigma: float, percent_to_sigma: Callable[[float], float]) -> float:
    """The percentage at ``sigma``: the inverse of a host's ``percent_to_sigma``, which decreases on [0, 1]."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if float(percent_to_sigma(middle)) > sigma:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _finite(number: float, what: str) -> float:
    if not isinstance(number, (int, float)) or not math.isfinite(number):
        raise LoKrValueError(f"Not a finite number: {what}", expected="a finite number", found=number)
    return float(number)


def _percent(number: float, what: str) -> float:
    if not 0 <= _finite(number, what) <= 1:
        raise LoKrValueError(f"Not a percentage of the run: {what}", expected="a number from 0 to 1", found=number)
    return float(number)
