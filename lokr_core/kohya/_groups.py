"""The parameters of a network in groups of one learning rate, as an optimizer takes them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ._module import LoKrModule

Groups = tuple[list[dict[str, Any]], list[str]]
"""(parameter groups, what each is, for the trainer's log)."""


def groups(
    modules: Iterable[LoKrModule],
    lr: float | None,
    ratio: float | None,
    reg_lrs: Mapping[re.Pattern[str], float],
    what: str,
) -> Groups:
    """The groups of ``modules``, those of ``reg_lrs`` first; parameters without a learning rate, or at 0, are left out.

    ratio: what multiplies the learning rate of W1 (LoRA+, as in sd-scripts' ``networks/network_base.py``)
    """
    found: dict[tuple[str, float | None], list[Tensor]] = {}
    rates = [(f"reg_lr_{i}", pattern, rate) for i, (pattern, rate) in enumerate(reg_lrs.items())]
    order = [label for label, _, _ in rates] + [what]
    for module in modules:
        label, rate = next(((label, r) for label, p, r in rates if p.fullmatch(module.path)), (what, lr))
        for name, parameter in module.named_parameters():
            plus = ratio is not None and name.startswith("lokr_w1")
            key = (f"{label} plus", None if rate is None else rate * ratio) if plus and ratio else (label, rate)
            found.setdefault(key, []).append(parameter)
    kept = {key: parameters for key, parameters in found.items() if key[1]}
    in_order = sorted(kept, key=lambda key: (order.index(key[0].removesuffix(" plus")), key[0]))
    return [{"params": kept[key], "lr": key[1]} for key in in_order], [label for label, _ in in_order]
