"""How many ranks are kept: by number, by energy, by error, or as many as a size holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import LoKrValueError

ENERGY = 0.99
"""The share of ‖ΔW‖² that is kept if nothing else is asked for."""


@dataclass(frozen=True)
class Keep:
    """How much of an update is kept; one of these at most, ``energy`` 0.99 if none is given.

    rank: so many singular values
    energy: as few as keep this share of ‖ΔW‖²
    error: as few as leave ‖ΔW − approximation‖ at or below this share of ‖ΔW‖
    size: bytes of the file's tensors, shared over all modules

    Raises LoKrValueError if several are given or one is out of range.
    """

    rank: int | None = None
    energy: float | None = None
    error: float | None = None
    size: int | None = None

    def __post_init__(self):
        given = {name: value for name, value in vars(self).items() if value is not None}
        if len(given) > 1:
            raise LoKrValueError(
                "Only one of rank, energy, error and size can be kept to",
                expected="one of them",
                found=", ".join(f"{name} {value:g}" for name, value in given.items()),
                hint="leave out all but one",
            )
        for name, value in given.items():
            most = 1 if name in ("energy", "error") else float("inf")
            if not 0 < value <= most and not (name == "error" and value == 0):
                raise LoKrValueError(
                    f"{name} is out of range",
                    expected="a number above 0" + (" and up to 1" if most == 1 else ""),
                    found=value,
                )

    def rank_for(self, values: Tensor) -> int:
        """How many of the singular ``values``, in descending order, are kept; ``size`` is for ``shared_ranks``.

        >>> Keep(error=0.5).rank_for(torch.tensor([2.0, 1.0, 0.1]))
        1
        """
        if self.rank is not None:
            return min(self.rank, len(values))
        lost = 1 - (ENERGY if self.energy is None else self.energy) if self.error is None else self.error**2
        squares = values.double().square()
        left = squares.sum() - squares.cumsum(0)  # after 1, 2, ... values
        return min(len(values), 1 + int((left > lost * squares.sum() + 1e-14 * squares.sum()).sum()))


def shared_ranks(spectra: Sequence[Tensor], costs: Sequence[int], budget: int) -> list[int]:
    """A rank for each module, such that all together keep the most energy within ``budget``.

    spectra: each module's singular values in descending order; costs: what one rank of it takes, in budget's unit

    The singular values of all modules are taken in the order of their energy per cost. Each module keeps one at least.
    Raises LoKrValueError if the budget does not hold those.

    >>> shared_ranks([torch.tensor([3.0, 0.1]), torch.tensor([2.0, 1.0])], [10, 10], 30)
    [1, 2]
    """
    least = sum(costs)
    if least > budget:
        raise LoKrValueError(
            "The size does not hold one rank of each module",
            expected=f"{least:,} bytes at least",
            found=f"{budget:,} bytes",
            hint="ask for a larger size",
        )
    worth = torch.cat([v[1:].double().square() / cost for v, cost in zip(spectra, costs, strict=True)])
    owners = torch.cat([torch.full((len(v) - 1,), number) for number, v in enumerate(spectra)])
    ranks, left = [1] * len(spectra), budget - least
    for owner in owners[worth.argsort(descending=True, stable=True)].tolist():
        if costs[owner] <= left:
            ranks[owner] += 1
            left -= costs[owner]
    return ranks
