"""What a trainer multiplied w1 ⊗ w2 by, as its file tells: a table of rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ..kronecker import Factor, rank_of
from . import _rules as rules
from ._rules import Evidence, Scaling


class Rule(NamedTuple):
    """A row of the table.

    writers: the trainers whose files the rule is for; source: where their code computes it
    scaling: Evidence -> the scaling, None if the file does not show that it is theirs
    """

    writers: str
    source: str
    scaling: Callable[[Evidence], Scaling | None]


# The first row with an answer counts; the last has one for every module.
RULES = (
    Rule("PEFT, diffusers, diffusion-pipe", "peft/tuners/lokr/layer.py: update_layer", rules.peft),
    Rule("SceneWorks", "SceneWorks pull requests 352, 390; mlx-gen/src/train/lora.rs: save_lokr", rules.stated),
    Rule("musubi-tuner's LTX-2 fork", "musubi_tuner/networks/lokr.py: export_state_dict", rules.stored_dim),
    Rule("musubi-tuner's LTX-2 fork until May 2026", "musubi_tuner/networks/lokr.py: LoKrModule", rules.lost_dim),
    Rule("Anima-Standalone-Trainer (KronA, CDKA)", "networks/krona.py, networks/cdka.py: state_dict", rules.krona),
    Rule(
        "sd-scripts, musubi-tuner and its LTX-2 fork",
        "networks/lokr.py: LoKrModule; networks/network_base.py: reg_dims",
        rules.networks_lokr,
    ),
    Rule("LyCORIS with rs_lora", "lycoris/modules/lokr.py: LokrModule", rules.rs_lora),
    Rule("AnimaLoraStudio until May 2026", "ComfyUI #15114", rules.asked_alpha),
    Rule("AnimaLoraStudio with lora_reg_dims", "its LyCORIS wrapper, until and since June 2026", rules.reg_dims),
    Rule(
        "LyCORIS, ai-toolkit, OneTrainer, SimpleTuner, ComfyUI's trainer",
        "lycoris/modules/lokr.py: scale 1 if use_w1 and use_w2",
        rules.plain_whole,
    ),
    Rule(
        "LyCORIS, sd-scripts, musubi-tuner, ai-toolkit, OneTrainer, SimpleTuner, ACE-Step",
        "lycoris/modules/lokr.py: alpha as stored is right for rs_lora as well",
        rules.plain,
    ),
)


def scaling_of(
    alpha: float | None,
    w1: Factor,
    w2: Factor,
    metadata: Mapping[str, str],
    dim: float | None = None,
    configured: Callable[[int | None, int | None, Sequence[int]], Scaling] | None = None,
) -> Scaling:
    """(scaling, notes) of a module by the first rule of ``RULES`` that has an answer; alpha / rank if only that is
    known, the rank being w2's, else w1's.

    alpha, dim: the module's ``alpha`` and ``lokr_dim``, None if it has none; metadata: of its file
    configured: (w1's rank, w2's rank, w2's shape) -> the scaling by PEFT's configuration, for a module without alpha

    Raises LoKrValueError if a factor is low-rank and alpha is NaN or Inf, and what ``configured`` raises.

    >>> import torch
    >>> w1, w2 = Factor(torch.ones(2, 2)), Factor(a=torch.ones(4, 2), b=torch.ones(2, 4))
    >>> scaling_of(1.0, w1, w2, {})
    (0.5, ())
    """
    by_config = configured(w1.rank, w2.rank, w2.shape) if configured and alpha is None else None
    evidence = Evidence(alpha, rank_of(w1, w2), w1.rank, w2.rank, w1.shape, metadata, dim, by_config)
    answers = (rule.scaling(evidence) for rule in RULES)
    value, notes = next(answer for answer in answers if answer is not None)
    if by_config is not None:
        return value, notes
    if evidence.rank is not None and evidence.counts and float(alpha or 0) < 0:
        notes = (f"alpha is negative ({alpha:g}): the update is subtracted", *notes)
    if w1.rank is not None and w1.rank != evidence.rank:
        notes = (f"w1 has rank {w1.rank}, w2 {evidence.rank}, and alpha is divided by w2's", *notes)
    return value, notes
