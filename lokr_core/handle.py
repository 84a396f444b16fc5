"""The handle on an adapter in force: one contract for a merge, for hooks, and for a host's own patches.

Handle                 strength, set_factors, enabled, remove, report, places
├── LiveHandle         the layers' hooks read the settings at each forward (``live``)
└── WeightsHandle      the weights are computed anew when a setting changes
    ├── MergeHandle    by this library (``merge``)
    └── a host's own   by the host, from its list of patches
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from .adapter import check_strength
from .errors import LoKrError, LoKrValueError

__all__ = ["Handle"]

Factors = Mapping[str, float] | Callable[[str], float] | None

_H = TypeVar("_H", bound="Handle")


@dataclass(frozen=True)
class Setting:
    """What is set on a handle for the whole adapter."""

    strength: float | Callable
    enabled: bool = True


class Handle(ABC):
    """An adapter in force on a model. ``remove()``, or leaving a ``with`` block, takes it out.

    strength: multiplies the update; assigning a number acts at once
    enabled: False gives the model without the adapter, bit for bit; True puts the adapter back in force
    report: a ``Report``, what became of each module of the file
    places: the names of the model's modules that the adapter changes

    If an assignment or ``set_factors`` raises, the former setting stays in force. They raise LoKrValueError if a number
    is not finite, and LoKrError after ``remove()``.

    >>> model = torch.nn.Sequential(torch.nn.Linear(6, 4))
    >>> adapter = Adapter({"0": LoKrWeights(Factor(torch.randn(2, 3)), Factor(torch.randn(2, 2)))})
    >>> base = model[0].weight.clone()
    >>> handle = merge_adapter(model, adapter, 0.5)   # or attach(model, adapter, 0.5)
    >>> handle.strength = 0.8
    >>> handle.set_factors({"0": 0.5})                # 0.8 · 0.5 for the module "0"
    >>> torch.allclose(model[0].weight, base + 0.4 * adapter["0"].delta(), atol=1e-5)
    True
    >>> handle.enabled = False
    >>> torch.equal(model[0].weight, base)
    True
    """

    _removed = False

    @property
    @abstractmethod
    def report(self) -> Any:
        """What became of each module of the file, a ``Report``."""

    @property
    @abstractmethod
    def _setting(self) -> Setting:
        """What is in force."""

    @abstractmethod
    def remove(self) -> None:
        """Take the adapter out of the model. Calling it again does nothing."""

    def forget(self) -> None:
        """Release the model after a host has loaded other weights into it: what was merged into them is gone."""
        self.remove()

    @abstractmethod
    def _places(self) -> list[tuple[str, str]]:
        """Of each update, (the model's name of its module, the file's)."""

    @abstractmethod
    def _set_strength(self, strength: float | Callable) -> None: ...

    @abstractmethod
    def _set_factors(self, factors: list[float]) -> None:
        """Put ``factors``, in the order of ``_places``, in force."""

    @abstractmethod
    def _set_enabled(self, enabled: bool) -> None: ...

    @property
    def places(self) -> list[str]:
        """The names of the model's modules that the adapter changes."""
        return list(dict.fromkeys(place for place, _ in self._places()))

    @property
    def strength(self) -> float | Callable:
        return self._setting.strength

    @strength.setter
    def strength(self, strength: float | Callable) -> None:
        self._check_in_force()
        self._set_strength(strength)

    @property
    def enabled(self) -> bool:
        return self._setting.enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self._check_in_force()
        self._set_enabled(bool(enabled))

    def set_factors(self, factors: Factors) -> None:
        """Multiply the strength module by module.

        factors: a mapping of the model's module names (``places``) or the file's to numbers, 1 for the modules left
        out; a function from the model's module name to a number; or None, 1 for all

        Raises LoKrValueError if a name is unknown or a factor is not finite; the former factors stay in force.
        """
        self._check_in_force()
        self._set_factors(factor_of_each(factors, self._places(), self.report.adapter.path))

    def set_strength(self, strength: float | Callable) -> None:
        """Deprecated: assign to ``strength``."""
        warnings.warn("set_strength(s) is deprecated: use handle.strength = s", DeprecationWarning, stacklevel=2)
        self.strength = strength

    def set_strengths(self, factors: Factors) -> None:
        """Deprecated: call ``set_factors``."""
        warnings.warn("set_strengths(f) is deprecated: use set_factors(f)", DeprecationWarning, stacklevel=2)
        self.set_factors(factors)

    def _check_in_force(self) -> None:
        if self._removed:
            raise LoKrError(
                "This adapter has been removed from the model",
                file=self.report.adapter.path,
                hint="put it on the model again with merge_adapter or attach",
            )

    def __enter__(self: _H) -> _H:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


class WeightsHandle(Handle):
    """A handle whose adapter is in the model's weights: when a setting changes, the weights are computed anew.

    ``matches``: the adapter's ``Match``es. A subclass gives ``_refresh``.
    """

    def __init__(self, report: Any, matches: Iterable[Any], strength: float, factors: Factors = None):
        self._report, self._matches = report, list(matches)
        self._now = Setting(_number(strength, report))
        of_each = factor_of_each(factors, self._places(), report.adapter.path)
        self._factors = dict(zip(self._matches, of_each, strict=True))

    @property
    def report(self) -> Any:
        return self._report

    @property
    def _setting(self) -> Setting:
        return self._now

    def strength_of(self, match: Any) -> float:
        """The strength of one module's update now: ``strength`` times the module's own factor, 0 if disabled."""
        return self._now.strength * self._factors[match] if self._now.enabled else 0.0

    @abstractmethod
    def _refresh(self, matches: list[Any]) -> None:
        """Compute the weights of ``matches``, whose strengths have changed."""

    def _restore(self, matches: list[Any]) -> None:
        """The same after ``_refresh`` has raised and the former setting is back."""
        self._refresh(matches)

    def _places(self) -> list[tuple[str, str]]:
        return [(match.slot.module, match.module) for match in self._matches]

    def _set_strength(self, strength: float | Callable) -> None:
        self._change(replace(self._now, strength=_number(strength, self.report)), self._factors)

    def _set_enabled(self, enabled: bool) -> None:
        self._change(replace(self._now, enabled=enabled), self._factors)

    def _set_factors(self, factors: list[float]) -> None:
        self._change(self._now, dict(zip(self._matches, factors, strict=True)))

    def _change(self, setting: Setting, factors: dict[Any, float]) -> None:
        """Put both in force. On any exception, KeyboardInterrupt too, the former are."""
        former, before = (self._now, self._factors), [self.strength_of(match) for match in self._matches]
        changed = self._matches
        try:
            self._now, self._factors = setting, factors
            changed = [m for m, old in zip(self._matches, before, strict=True) if self.strength_of(m) != old]
            self._refresh(changed)
        except BaseException:
            self._now, self._factors = former
            self._restore(changed)
            raise


def factor_of_each(factors: Factors, places: list[tuple[str, str]], file: object) -> list[float]:
    """The factor of each update, whose module's names in the model and in the file are in ``places``.

    Raises LoKrValueError if a name in ``factors`` is in none of them, or a factor is not finite.

    >>> factor_of_each({"a": 0.5}, [("a", "lokr_a"), ("b", "lokr_b")], None)
    [0.5, 1.0]
    """
    if factors is None:
        return [1.0] * len(places)
    if callable(factors):
        return [check_strength(factors(place)) for place, _ in places]
    known = {name for names in places for name in names}
    unknown = [name for name in factors if name not in known]
    if unknown:
        raise LoKrValueError(
            "There are factors for modules that this adapter does not change",
            file=file,
            expected=f"some of {', '.join(dict.fromkeys(place for place, _ in places))}",
            found=", ".join(map(str, unknown)),
        )
    return [check_strength(factors.get(place, factors.get(module, 1.0))) for place, module in places]


def _number(strength: float | Callable, report: Any) -> float:
    if callable(strength):
        raise LoKrValueError(
            "A merge needs a number as its strength",
            file=report.adapter.path,
            expected="a finite number",
            found="a function",
            hint="use attach, where a strength may be a function of the step",
        )
    return check_strength(strength)
