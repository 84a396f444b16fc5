"""What a file holds besides LoKr, where it is an update of the same form.

A LoRA is a LoKr whose w1 is the number 1: ΔW = alpha / r · (1 ⊗ up @ down), a LoCon with a core one whose w2 is Tucker,
and a full difference one whose w2 is whole. So the same maths applies them. Biases and norms are updates of one column.
From LyCORIS ``modules/locon.py``, ``full.py`` and ``norms.py``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ..adapter import Adapter, LoKrWeights
from ..errors import LoKrShapeError
from ..kronecker import Factor

# Names of the two halves of a LoRA: as kohya, diffusers and PEFT write them.
_UP = ("lora_up.weight", "lora.up.weight", "lora_linear_layer.up.weight", "lora_B.weight")
_DOWN = ("lora_down.weight", "lora.down.weight", "lora_linear_layer.down.weight", "lora_A.weight")
_CORE = "lora_mid.weight"
# Differences stored whole: tensor name -> the parameter it belongs to.
_WHOLE = {"diff": "weight", "w_norm": "weight", "diff_b": "bias", "b_norm": "bias"}
_KNOWN = frozenset((*_UP, *_DOWN, _CORE, *_WHOLE, "alpha", "dora_scale"))


def other_updates(adapter: Adapter) -> dict[str, dict[str, LoKrWeights]]:
    """Module of ``adapter.other_kinds`` -> parameter ("weight", "bias") -> its update, a bias' as (n, 1).

    Modules of other kinds, and those with tensors beyond these, are left out: half an update is none.
    """
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, (module, name) in adapter.other_keys.items():
        if module in adapter.other_kinds and name:
            parts[module][name] = adapter.other[key]
    return {module: updates for module, found in parts.items() if (updates := dict(_updates(found)))}


def _updates(parts: Mapping[str, Tensor]) -> Iterator[tuple[str, LoKrWeights]]:
    if not parts.keys() <= _KNOWN or not all(torch.isfinite(t).all() for t in parts.values()):
        return
    one = Factor(torch.ones(1, 1))
    dora_scale = parts.get("dora_scale")
    try:
        for name, parameter in _WHOLE.items():
            if name in parts:
                tensor = parts[name] if parts[name].ndim > 1 else parts[name].reshape(-1, 1)
                yield parameter, LoKrWeights(one, Factor(tensor))
        up = next((parts[name] for name in _UP if name in parts), None)
        down = next((parts[name] for name in _DOWN if name in parts), None)
        if up is not None and down is not None:
            w2 = _low_rank(up, down, parts.get(_CORE))
            alpha = float(parts["alpha"]) if "alpha" in parts else None
            scaling = 1.0 if alpha is None else alpha / w2.rank
            if math.isfinite(scaling):
                yield "weight", LoKrWeights(one, w2, scaling, dora_scale, alpha)
    except LoKrShapeError:
        return


def _low_rank(up: Tensor, down: Tensor, core: Tensor | None) -> Factor:
    """up (out, r[, 1, 1]), down (r, in[, *kernel]), core (r, r, *kernel)."""
    if core is not None:
        return Factor(a=up.flatten(1).T, b=down.flatten(1), t=core)
    return Factor(a=up.flatten(1), b=down)
