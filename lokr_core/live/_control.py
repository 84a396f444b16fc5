"""The strength of an attached adapter, as all of its updates share it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from copy import copy
from typing import Any

from .._layers import WeightOf
from ..adapter import check_strength


class Control:
    """The state that all updates of one attached adapter share; a deep copy of a model has its own.

    It holds no module, so that copying one layer never drags the rest of the model along.
    """

    strength: float | Callable
    step: object = None
    enabled = True

    def __init__(self, strength: float | Callable, report: Any, weight_of: WeightOf | None):
        self.report, self.weight_of = report, weight_of
        self.set(strength)

    def set(self, strength: float | Callable) -> None:
        """Set a number or a callable. Raises LoKrValueError if a number is not finite."""
        if callable(strength):
            self.wants_step = _takes_an_argument(strength)
            self.strength = strength
        else:
            self.strength = check_strength(strength)

    def now(self) -> float:
        """The strength in force at this moment."""
        if not self.enabled:
            return 0.0
        strength = self.strength
        if isinstance(strength, float):
            return strength
        value = strength(self.step) if self.wants_step else strength()
        return value if isinstance(value, float) and math.isfinite(value) else check_strength(value)

    def __deepcopy__(self, memo: dict) -> Control:
        return copy(self)


def _takes_an_argument(function: Callable) -> bool:
    """Whether ``function`` has a positional parameter without default."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.kind in positional and p.default is p.empty for p in parameters)
