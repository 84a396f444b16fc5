"""What a file tells of the scaling of one of its modules, and the rules of single trainers.

Each rule returns a scaling, None if the file does not show that it is the trainer's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from .._files import json_object
from ..errors import LoKrValueError

Scaling = tuple[float, tuple[str, ...]]
"""What multiplies w1 ⊗ w2, and notes on what was assumed."""


@dataclass(frozen=True)
class Evidence:
    """What a file tells of one module.

    alpha, dim: the module's ``alpha`` and ``lokr_dim``, None if it has none; metadata: of the file
    w1_rank, w2_rank: None for a whole factor; rank: w2's, else w1's; w1_shape: (l, m)
    configured: the answer of PEFT's configuration for it, None without one

    The properties read the metadata, which anyone may have written: a malformed value counts as missing.
    """

    alpha: float | None
    rank: int | None
    w1_rank: int | None
    w2_rank: int | None
    w1_shape: tuple[int, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    dim: float | None = None
    configured: Scaling | None = None

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
        """Whether the file calls its network LyCORIS', or ours, which writes as it does: by the module's name, else by
        an argument that only LyCORIS' networks take."""
        return self.network.startswith(("lycoris", "lokr_core")) or (not self.network and "algo" in self.arguments)


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


# Arguments that only one network module takes: they tell it where ``ss_network_module`` is missing.
_KRONA = {"factor_in", "factor_out", "cdka_factor_in", "cdka_alpha", "krona_alpha", "use_cdka_scale"}
_SD_SCRIPTS = {"network_reg_dims", "network_reg_lrs"}
NO_ALPHA = (
    "no alpha in the file, and both factors whole: scaling 1 assumed",
    "no alpha in the file: scaling 1 assumed",
)
_KNOWN = ("", "networks.lokr", "networks.lokr_anima", "networks.krona", "networks.cdka", "networks.lora")


def peft(e: Evidence) -> Scaling | None:
    """alpha / r of the configuration, for whole factors too."""
    return e.configured if e.alpha is None else None


def stated(e: Evidence) -> Scaling | None:
    """``rank`` and ``alpha`` of a PEFT network in the metadata, without any alpha in the tensors: alpha / rank.

    A low-rank factor shows the rank that was trained, also where the metadata lack it or have another.
    """
    alpha, rank = finite(e.metadata.get("alpha")), number(e.metadata.get("rank"))
    trained = rank if e.rank is None else e.rank
    if e.alpha is not None or alpha is None or trained is None:
        return None
    if trained == rank:
        return alpha / trained, ()
    other = "" if rank is None else f", not over its rank {rank:g}"
    return alpha / trained, (f"the metadata's alpha {alpha:g} is taken over the tensors' rank {trained}{other}",)


def stored_dim(e: Evidence) -> Scaling | None:
    """``lokr_dim`` beside a low-rank w1 and a whole w2, whose shapes do not show the rank: alpha / lokr_dim."""
    if e.dim is None or not _only_w1_is_low_rank(e):
        return None
    if not e.dim > 0:
        raise LoKrValueError("lokr_dim is not a positive number", expected="a rank such as 16", found=e.dim)
    # Half precision rounds a large rank, or overflows.
    exact = e.asked_rank is not None and (e.dim == math.inf or math.isclose(e.dim, e.asked_rank, rel_tol=0.01))
    dim = e.asked_rank if exact else e.dim
    return None if not dim or dim == math.inf else (float(e.alpha or 0) / dim, ())


def lost_dim(e: Evidence) -> Scaling | None:
    """The same without ``lokr_dim``: w1's rank was cut to its shorter side, so only the metadata have the rank."""
    rank = e.w1_rank or 0
    if not _only_w1_is_low_rank(e) or e.is_lycoris or rank != min(e.w1_shape[:2]):
        return None
    if e.network in ("", "networks.lokr") and e.asked_rank is not None and e.asked_rank > rank:
        return float(e.alpha or 0) / e.asked_rank, (f"alpha is divided by {e.asked_rank:g}, the rank asked for",)
    if e.network == "networks.lokr" and e.asked_rank is None:
        note = f"w1's rank is as large as it can be, and the rank asked for is not known: alpha / {rank} assumed"
        return float(e.alpha or 0) / rank, (note,)
    return None


def _only_w1_is_low_rank(e: Evidence) -> bool:
    return e.counts and e.w1_rank is not None and e.w2_rank is None


def krona(e: Evidence) -> Scaling | None:
    """Whole factors at 1, whatever alpha is: the scale of CDKA is multiplied into w1 on saving.

    One version of June 2026 did not multiply it in: with ``use_cdka_scale`` it trained at krona_alpha / √n, n being
    w1's columns.
    """
    told = e.network in ("networks.krona", "networks.cdka") or (not e.network and _KRONA & e.arguments.keys())
    if not told or e.rank is not None:
        return None
    asked = number(e.arguments.get("krona_alpha"))
    if asked is None or not true(e.arguments.get("use_cdka_scale")):
        return 1.0, ()
    value = asked / math.sqrt(e.w1_shape[1])
    return value, (f"use_cdka_scale: scaling {value:g} = krona_alpha / √{e.w1_shape[1]}, as trained",)


def networks_lokr(e: Evidence) -> Scaling | None:
    """Both factors whole at 1: alpha is set to the layer's own rank, which ``network_reg_dims`` may change."""
    told = e.network == "networks.lokr" or (not e.network and _SD_SCRIPTS & e.arguments.keys())
    return (1.0, ()) if told and e.rank is None and e.alpha is not None else None


def rs_lora(e: Evidence) -> Scaling | None:
    """LyCORIS with rs_lora, both factors whole: √r, r being the rank asked for, or 1 if the argument did not reach
    LyCORIS (the standalone wrapper drops it).

    alpha tells which: LyCORIS stores r·√r with rs_lora and r without.
    """
    if e.rank is not None or not true(e.arguments.get("rs_lora")):
        return None
    ranks = [rank for rank in (e.asked_rank, number(e.arguments.get("conv_dim"))) if rank]
    if not ranks:
        return 1.0, ("rs_lora without a rank in the metadata: scaling 1 assumed",)
    if e.alpha is None or not (0 < e.alpha < math.inf):
        value = math.sqrt(ranks[0])
    else:
        alpha = e.alpha
        options = [(rank**1.5, math.sqrt(rank)) for rank in ranks] + [(rank, 1.0) for rank in ranks]
        value = min(options, key=lambda option: abs(math.log(option[0] / alpha)))[1]
    why = "as trained" if value != 1 else "for alpha says it was not in force"
    return value, (f"rs_lora with both factors whole: scaling {value:g}, {why}",)


def asked_alpha(e: Evidence) -> Scaling | None:
    """Both factors whole under LyCORIS' name, with the alpha asked for where LyCORIS stores the rank: alpha / rank."""
    if e.rank is not None or not e.is_lycoris or not _is_asked(e):
        return None
    value = float(e.alpha or 0) / float(e.asked_rank or 1)
    note = (
        f"alpha is {e.alpha:g} though both factors are whole and the rank asked for was {e.asked_rank:g}, which is "
        f"not how LyCORIS stores it: scaling {value:g} = alpha / rank taken, as the trainers that write this multiply"
    )
    return value, (note,)


def _is_asked(e: Evidence) -> bool:
    """Whether alpha is the one asked for, and not the rank."""
    if e.alpha is None or not e.alpha > 0 or e.asked_rank is None or e.alpha == e.asked_rank:
        return False
    return e.alpha == e.asked_alpha and not {"conv_dim", "preset"} & e.arguments.keys()


def reg_dims(e: Evidence) -> Scaling | None:
    """``lora_reg_dims`` changed a layer's rank after its scale was set: the layer keeps the scale of the network's
    rank. Until June 2026 the network's alpha was stored, since then one that makes alpha / rank right again.
    """
    base, rank = e.asked_rank, e.rank
    if rank is None or not e.counts or not e.arguments.get("lora_reg_dims") or base is None or base == rank:
        return None
    alpha = float(e.alpha or 0)
    plain = alpha / rank
    trained = e.asked_alpha
    if trained is not None:
        trained /= math.sqrt(base) if true(e.arguments.get("rs_lora")) else base
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


def plain_whole(e: Evidence) -> Scaling | None:
    """Both factors whole: 1, since alpha is a placeholder (the rank asked for, 1e5, 1e10)."""
    if e.rank is not None:
        return None
    if e.alpha is None:
        return 1.0, NO_ALPHA[:1]
    if not e.alpha > 0:
        return 1.0, (f"alpha is {e.alpha:g}, which counts for nothing where both factors are whole: scaling 1",)
    if _is_asked(e) and not e.is_lycoris and e.network in _KNOWN:
        note = (
            f"alpha is {e.alpha:g} though both factors are whole and the rank asked for was {e.asked_rank:g}: scaling "
            "1 taken, as networks.lokr of sd-scripts trains; AnimaLoraStudio's LoKr trains at alpha / rank"
        )
        return 1.0, (note,)
    return 1.0, _unknown(e)


def plain(e: Evidence) -> Scaling:
    """alpha / rank. Raises LoKrValueError if alpha is NaN or Inf."""
    if e.alpha is None:
        return 1.0, NO_ALPHA[1:]
    if not math.isfinite(e.alpha):
        raise LoKrValueError("alpha is not a finite number", expected="a number", found=e.alpha)
    if e.alpha == 0:
        return 1.0, ("alpha is 0, which trainers read as alpha = rank: scaling 1 assumed",)
    return e.alpha / float(e.rank or 1), _unknown(e)


def _unknown(e: Evidence) -> tuple[str, ...]:
    """A note if the file names a network module that no rule knows."""
    if e.network in _KNOWN or e.is_lycoris:
        return ()
    return (f"how {e.network} scales is not known: alpha / rank assumed, and 1 where both factors are whole",)
