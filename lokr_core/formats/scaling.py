"""What a trainer multiplied w1 ⊗ w2 by, out of what its file says."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from ..errors import LoKrValueError
from ..kronecker import Factor

__all__ = ["scaling_of"]


def scaling_of(
    alpha: float | None, w1: Factor, w2: Factor, metadata: Mapping[str, str], notes: list[str] | None = None
) -> float:
    """What the trainer multiplied w1 ⊗ w2 by: alpha / r, r being the rank of the low-rank factor, w2's where both
    are. (LyCORIS ``modules/lokr.py``: the alpha it stores makes this right for ``rs_lora`` as well.)

    ``notes`` is given what had to be assumed. Raises LoKrValueError where alpha is NaN or Inf and counts.
    """
    notes = [] if notes is None else notes
    rank = w1.rank if w2.rank is None else w2.rank
    if rank is None:
        return _whole_scaling(alpha, metadata, notes)
    if w1.rank is not None and w1.rank != rank:
        notes.append(f"w1 has rank {w1.rank}, w2 {rank}; alpha is divided by w2's")
    if alpha is None:
        notes.append("no alpha in the file: scaling 1 assumed")
        return 1.0
    if not math.isfinite(alpha):
        raise LoKrValueError("alpha is not a finite number", expected="a number", found=alpha)
    if alpha == 0:
        notes.append("alpha is 0, which trainers read as alpha = rank: scaling 1 assumed")
        return 1.0
    if alpha < 0:
        notes.append(f"alpha is negative ({alpha:g}): the update is subtracted")
    return alpha / rank


def _whole_scaling(alpha: float | None, metadata: Mapping[str, str], notes: list[str]) -> float:
    """Both factors whole: 1 whatever alpha says, except that rs_lora multiplied by √r, r being the rank asked for.

    Metadata tells that rs_lora was asked for, alpha whether it was heard (LyCORIS' standalone wrapper drops the
    argument): LyCORIS stores r without it and r·√r with it.
    """
    try:
        arguments = dict(json.loads(metadata.get("ss_network_args") or "{}"))
    except (json.JSONDecodeError, TypeError, ValueError):
        arguments = {}
    if str(arguments.get("rs_lora", False)).lower() not in ("true", "1"):
        if alpha is None:
            notes.append("no alpha in the file, and both factors whole: scaling 1 assumed")
        elif not alpha > 0:
            notes.append(f"alpha is {alpha:g}, which counts for nothing where both factors are whole: scaling 1")
        return 1.0
    ranks = []
    for value in (metadata.get("ss_network_dim"), arguments.get("conv_dim")):
        try:
            ranks.append(float(value))
        except (TypeError, ValueError):
            continue
    ranks = [rank for rank in ranks if 1 <= rank < 1e9]
    if not ranks:
        notes.append("rs_lora without a rank in the metadata: scaling 1 assumed")
        return 1.0
    if alpha is None or not (0 < alpha < math.inf):
        scaling = math.sqrt(ranks[0])
    else:
        stored = [(rank**1.5, math.sqrt(rank)) for rank in ranks] + [(rank, 1.0) for rank in ranks]
        scaling = min(stored, key=lambda option: abs(math.log(option[0] / alpha)))[1]
    notes.append(
        f"rs_lora with both factors whole: scaling {scaling:g}"
        + (", as trained" if scaling != 1 else "; alpha says it was not in force")
    )
    return scaling
