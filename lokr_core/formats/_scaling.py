"""What a trainer multiplied w1 ⊗ w2 by, as its file tells."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from .._files import json_object
from ..errors import LoKrValueError
from ..kronecker import Factor, rank_of

Scaling = tuple[float, tuple[str, ...]]
"""What multiplies w1 ⊗ w2, and notes on what was assumed."""


def scaling_of(alpha: float | None, w1: Factor, w2: Factor, metadata: Mapping[str, str]) -> Scaling:
    """alpha / r, r being the rank of the low-rank factor, w2's if both are. (LyCORIS ``modules/lokr.py``: the alpha it
    stores makes this right for ``rs_lora`` as well.)

    Raises LoKrValueError if a factor is low-rank and alpha is NaN or Inf.

    >>> import torch
    >>> w1, w2 = Factor(torch.ones(2, 2)), Factor(a=torch.ones(4, 2), b=torch.ones(2, 4))
    >>> scaling_of(1.0, w1, w2, {})
    (0.5, ())
    """
    rank = rank_of(w1, w2)
    if rank is None:
        return _whole_scaling(alpha, metadata)
    notes: tuple[str, ...]
    if alpha is None:
        value, notes = 1.0, ("no alpha in the file: scaling 1 assumed",)
    elif not math.isfinite(alpha):
        raise LoKrValueError("alpha is not a finite number", expected="a number", found=alpha)
    elif alpha == 0:
        value, notes = 1.0, ("alpha is 0, which trainers read as alpha = rank: scaling 1 assumed",)
    else:
        value, notes = _low_rank_scaling(alpha, rank, metadata)
        if alpha < 0:
            notes = (f"alpha is negative ({alpha:g}): the update is subtracted", *notes)
    if w1.rank is not None and w1.rank != rank:
        notes = (f"w1 has rank {w1.rank}, w2 {rank}, and alpha is divided by w2's", *notes)
    return value, notes


def _low_rank_scaling(alpha: float, rank: int, metadata: Mapping[str, str]) -> Scaling:
    """alpha / rank, unless the layer's rank was changed after its scale was set.

    AnimaLoraStudio's ``lora_reg_dims`` does that to LyCORIS' modules: they keep the scale of the network's rank. Until
    June 2026 it stored the network's alpha, since then one that makes alpha / rank right again.
    """
    arguments, base = _arguments(metadata.get("ss_network_args")), _number(metadata.get("ss_network_dim"))
    plain = alpha / rank
    if not arguments.get("lora_reg_dims") or base is None or base == rank:
        return plain, ()
    trained = _number(metadata.get("ss_network_alpha"))
    if trained is not None:
        trained /= math.sqrt(base) if _true(arguments.get("rs_lora")) else base
        if math.isclose(plain, trained, rel_tol=0.01):
            return plain, ()
        if not math.isclose(alpha / base, trained, rel_tol=0.01):
            note = f"lora_reg_dims changed this layer's rank, and alpha fits neither: {alpha:g} / {rank} taken"
            return plain, (note,)
    note = (
        f"lora_reg_dims changed this layer's rank to {rank} after its scale was set: scaling {alpha / base:g} as "
        f"trained, not alpha / rank"
    )
    return alpha / base, (note,)


def _whole_scaling(alpha: float | None, metadata: Mapping[str, str]) -> Scaling:
    """Both factors are whole: 1 whatever alpha is, except for two kinds of file.

    LyCORIS with rs_lora multiplied by √r, r being the rank asked for (``_rs_lora_scaling``).

    Others call their files LyCORIS' but multiplied by alpha / r (AnimaLoraStudio's own LoKr until May 2026;
    ComfyUI #15114): they store the alpha asked for, where LyCORIS stores the rank.
    """
    arguments, asked = _arguments(metadata.get("ss_network_args")), _number(metadata.get("ss_network_dim"))
    if _true(arguments.get("rs_lora")):
        return _rs_lora_scaling(alpha, [rank for rank in (asked, _number(arguments.get("conv_dim"))) if rank])
    if alpha is None:
        return 1.0, ("no alpha in the file, and both factors whole: scaling 1 assumed",)
    if not alpha > 0:
        return 1.0, (f"alpha is {alpha:g}, which counts for nothing where both factors are whole: scaling 1",)
    asked_alpha = alpha == _number(metadata.get("ss_network_alpha")) and not {"conv_dim", "preset"} & arguments.keys()
    if not asked or alpha == asked or not asked_alpha:
        return 1.0, ()
    note = (
        f"alpha is {alpha:g} though both factors are whole and the rank asked for was {asked:g}, which is not how "
        f"LyCORIS stores it: scaling {alpha / asked:g} = alpha / rank taken, as the trainers that write this multiply"
    )
    return alpha / asked, (note,)


def _rs_lora_scaling(alpha: float | None, ranks: list[float]) -> Scaling:
    """√r, or 1 if the argument did not reach LyCORIS (the standalone wrapper drops it).

    alpha tells which: LyCORIS stores r·√r with rs_lora and r without. ranks: those that r may be.
    """
    if not ranks:
        return 1.0, ("rs_lora without a rank in the metadata: scaling 1 assumed",)
    if alpha is None or not (0 < alpha < math.inf):
        value = math.sqrt(ranks[0])
    else:
        stored = [(rank**1.5, math.sqrt(rank)) for rank in ranks] + [(rank, 1.0) for rank in ranks]
        value = min(stored, key=lambda option: abs(math.log(option[0] / alpha)))[1]
    why = "as trained" if value != 1 else "for alpha says it was not in force"
    return value, (f"rs_lora with both factors whole: scaling {value:g}, {why}",)


_arguments = lru_cache(maxsize=4)(json_object)
"""The arguments of the network, from ``ss_network_args`` of kohya's metadata, which every module asks for."""


def _number(value: Any) -> float | None:
    """A rank or an alpha in metadata, None if it is not a positive number."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 < number < 1e9 else None


def _true(value: object) -> bool:
    return str(value).lower() in ("true", "1")
