"""Updates of other algorithms that have the form of a LoKr.

A LoRA is a LoKr with the number 1 as w1: ΔW = alpha / r · (1 ⊗ up @ down). A LoCon with a core is one with a Tucker w2,
a full difference one with a whole w2. Biases and norms are updates of a single column. From LyCORIS
``modules/locon.py``, ``full.py`` and ``norms.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ..adapter import Adapter, LoKrWeights
from ..errors import LoKrShapeError
from ..kronecker import Factor

# Names of the two halves of a LoRA: kohya's, diffusers' and PEFT's.
_UP = ("lora_up.weight", "lora.up.weight", "lora_linear_layer.up.weight", "lora_B.weight")
_DOWN = ("lora_down.weight", "lora.down.weight", "lora_linear_layer.down.weight", "lora_A.weight")
_CORE = "lora_mid.weight"
# Differences stored whole: tensor name -> the parameter it belongs to.
_WHOLE = {"diff": "weight", "w_norm": "weight", "diff_b": "bias", "b_norm": "bias"}
_KNOWN = frozenset((*_UP, *_DOWN, _CORE, *_WHOLE, "alpha", "dora_scale"))


def foreign_updates(adapter: Adapter) -> dict[str, dict[str, LoKrWeights]]:
    """The updates of ``adapter.foreign`` that have the form of a LoKr.

    Returns module -> parameter ("weight", "bias") -> update, a bias' as (n, 1). Modules with tensors of any other
    algorithm are skipped: a partly understood update is not applied.
    """
    found = ((module, dict(_updates(adapter.foreign.of(module)))) for module in adapter.foreign.modules)
    return {module: updates for module, updates in found if updates}


def _updates(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, LoKrWeights]]:
    """(parameter, update) of a module's tensors by name; none if a tensor is unknown or not finite."""
    if not tensors.keys() <= _KNOWN or not all(torch.isfinite(t).all() for t in tensors.values()):
        return
    one = Factor(torch.ones(1, 1))
    try:
        for name, parameter in _WHOLE.items():
            if name in tensors:
                tensor = tensors[name]
                yield parameter, LoKrWeights(one, Factor(tensor if tensor.ndim > 1 else tensor.reshape(-1, 1)))
        up = next((tensors[name] for name in _UP if name in tensors), None)
        down = next((tensors[name] for name in _DOWN if name in tensors), None)
        if up is not None and down is not None:
            up, core = up.flatten(1), tensors.get(_CORE)  # (out, r[, 1, 1]) -> (out, r); (r, r, *kernel)
            # down: (r, in[, *kernel])
            w2 = Factor(a=up, b=down) if core is None else Factor(a=up.T, b=down.flatten(1), t=core)
            alpha = float(tensors["alpha"]) if "alpha" in tensors else None
            scaling = 1.0 if alpha is None else alpha / up.shape[1]
            if math.isfinite(scaling):
                yield "weight", LoKrWeights(one, w2, scaling, tensors.get("dora_scale"), alpha)
    except LoKrShapeError:
        return
