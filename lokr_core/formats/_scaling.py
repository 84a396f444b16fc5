"""What a trainer multiplied w1 ⊗ w2 by, out of what its file says."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import lru_cache

from ..errors import LoKrValueError
from ..kronecker import Factor


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
        notes.append(f"w1 has rank {w1.rank}, w2 {rank}, and alpha is divided by w2's")
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
    return _changed_rank_scaling(alpha, rank, metadata, notes) or alpha / rank


def _changed_rank_scaling(alpha: float, rank: int, metadata: Mapping[str, str], notes: list[str]) -> float | None:
    """The scaling of a layer whose rank was changed after its scale was set; None where that is alpha / rank.

    AnimaLoraStudio's ``lora_reg_dims`` does that to LyCORIS' modules: they go on with the scale of the network's
    rank. Until June 2026 it stored the network's alpha, since then one that makes alpha / rank right again.
    """
    arguments, base = _arguments(metadata), _number(metadata.get("ss_network_dim"))
    if not arguments.get("lora_reg_dims") or base is None or base == rank:
        return None
    trained = _number(metadata.get("ss_network_alpha"))
    if trained is not None:
        trained /= math.sqrt(base) if _true(arguments.get("rs_lora")) else base
        if math.isclose(alpha / rank, trained, rel_tol=0.01):
            return None
        if not math.isclose(alpha / base, trained, rel_tol=0.01):
            notes.append(f"lora_reg_dims changed this layer's rank, and alpha fits neither: {alpha:g} / {rank} taken")
            return None
    notes.append(
        f"lora_reg_dims changed this layer's rank to {rank} after its scale was set: scaling {alpha / base:g} as "
        f"trained, not alpha / rank"
    )
    return alpha / base


def _whole_scaling(alpha: float | None, metadata: Mapping[str, str], notes: list[str]) -> float:
    """Both factors whole: 1 whatever alpha says, but for two kinds of file that metadata and alpha give away.

    LyCORIS with rs_lora multiplied by √r, r being the rank asked for. Metadata tells that it was asked for, alpha
    whether it was heard (the standalone wrapper drops the argument): LyCORIS stores r without it and r·√r with it.

    Others call their files LyCORIS' but multiplied by alpha / r (AnimaLoraStudio's own LoKr until May 2026;
    ComfyUI #15114): they store the alpha asked for, where LyCORIS stores the rank.
    """
    arguments, asked = _arguments(metadata), _number(metadata.get("ss_network_dim"))
    if not _true(arguments.get("rs_lora")):
        if alpha is None:
            notes.append("no alpha in the file, and both factors whole: scaling 1 assumed")
        elif not alpha > 0:
            notes.append(f"alpha is {alpha:g}, which counts for nothing where both factors are whole: scaling 1")
        elif (
            asked
            and alpha != asked
            and alpha == _number(metadata.get("ss_network_alpha"))
            and not ({"conv_dim", "preset"} & arguments.keys())
        ):
            notes.append(
                f"alpha is {alpha:g} though both factors are whole and the rank asked for was {asked:g}, which is "
                f"not how LyCORIS stores it: scaling {alpha / asked:g} = alpha / rank taken, as the trainers that "
                "write this multiply"
            )
            return alpha / asked
        return 1.0
    ranks = [rank for rank in (asked, _number(arguments.get("conv_dim"))) if rank]
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
        + (", as trained" if scaling != 1 else ", for alpha says it was not in force")
    )
    return scaling


def _arguments(metadata: Mapping[str, str]) -> Mapping[str, object]:
    """What the network was made with, as kohya's metadata has it."""
    return _object(metadata.get("ss_network_args") or "{}")


@lru_cache(maxsize=4)
def _object(text: str) -> Mapping[str, object]:
    """A JSON object out of anyone's text; empty where it is none."""
    try:
        return dict(json.loads(text))
    except (TypeError, ValueError, RecursionError):
        return {}


def _number(value: object) -> float | None:
    """A rank or an alpha out of anyone's text; None where it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 < number < 1e9 else None


def _true(value: object) -> bool:
    return str(value).lower() in ("true", "1")
