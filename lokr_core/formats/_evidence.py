"""What a file tells of the scaling of one of its modules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from .._files import json_object
from ..kronecker import Factor, rank_of
from ..peft import StoredConfig

Scaling = tuple[float, tuple[str, ...]]
"""What multiplies w1 ⊗ w2, and notes on what was assumed."""


@dataclass(frozen=True)
class Evidence:
    """What a file tells of one module.

    alpha, dim: the module's ``alpha`` and ``lokr_dim``, None if it has none; metadata: of the file
    module: its name; config: PEFT's configuration for it

    The properties read the metadata, which anyone may have written: a malformed value counts as missing.
    """

    alpha: float | None
    w1: Factor
    w2: Factor
    metadata: Mapping[str, str] = field(default_factory=dict)
    dim: float | None = None
    module: str = ""
    config: StoredConfig | None = None

    @cached_property
    def rank(self) -> int | None:
        """w2's rank, else w1's; None if both factors are whole."""
        return rank_of(self.w1, self.w2)

    @property
    def counts(self) -> bool:
        """Whether alpha is a number that trainers divide by a rank: 0 stands for the rank itself."""
        return self.alpha is not None and math.isfinite(self.alpha) and self.alpha != 0

    @cached_property
    def network(self) -> str:
        """The trainer's network module without its package ("networks.lokr"), "" if the metadata do not tell."""
        return str(self.metadata.get("ss_network_module", "")).strip().removeprefix("musubi_tuner.")

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the network."""
        return _arguments(self.metadata.get("ss_network_args"))

    @cached_property
    def asked_rank(self) -> float | None:
        """The rank that the network was asked for."""
        return number(self.metadata.get("ss_network_dim"))

    @cached_property
    def asked_alpha(self) -> float | None:
        """The alpha that the network was asked for."""
        return number(self.metadata.get("ss_network_alpha"))

    @property
    def is_lycoris(self) -> bool:
        """Whether the file calls its network LyCORIS': by the module's name, else by an argument that only LyCORIS'
        networks take."""
        return self.network.startswith("lycoris") or (not self.network and "algo" in self.arguments)


_arguments = lru_cache(maxsize=4)(json_object)
"""The arguments of the network, which every module of a file asks for."""


def finite(value: object) -> float | None:
    """A number in metadata, None if it is not a finite one."""
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def number(value: object) -> float | None:
    """A rank or an alpha in metadata, None if it is not a positive number.

    Ranks of 1e9 and more are placeholders that ask for whole factors.
    """
    found = finite(value)
    return found if found is not None and 0 < found < 1e9 else None


def true(value: object) -> bool:
    """Whether an argument is set, as JSON or as text."""
    return str(value).lower() in ("true", "1")
