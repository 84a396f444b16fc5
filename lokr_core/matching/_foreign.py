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
from ..kronecker import Factor, is_finite
from ..peft import magnitude_of

# Names of the two halves of a LoRA: kohya's, diffusers' and PEFT's.
_UP = ("lora_up.weight", "lora.up.weight", "lora_linear_layer.up.weight", "lora_B.weight")
_DOWN = ("lora_down.weight", "lora.down.weight", "lora_linear_layer.down.weight", "lora_A.weight")
_CORE = "lora_mid.weight"
# Differences stored whole: tensor name -> the parameter it belongs to.
_WHOLE = {"diff": "weight", "w_norm": "weight", "diff_b": "bias", "b_norm": "bias"}
_MAGNITUDES = ("lora_magnitude_vector", "lora_magnitude_vector.weight")
_KNOWN = frozenset((*_UP, *_DOWN, _CORE, *_WHOLE, *_MAGNITUDES, "alpha", "dora_scale"))
_AXES = {_CORE: 3, **dict.fromkeys((*_UP, *_DOWN), 2)}
"""The fewest axes of a tensor, by its name."""


def foreign_updates(adapter: Adapter) -> dict[str, dict[str, LoKrWeights]]:
    """The updates of ``adapter.foreign`` that have the form of a LoKr.

    Returns module -> parameter ("weight", "bias") -> update, a bias' as (n, 1). Modules with tensors of any other
    algorithm, or with tensors that contradict each other, are skipped: a partly understood update is not applied.
    """
    found = ((module, dict(_updates(adapter.foreign.of(module)))) for module in adapter.foreign.modules)
    return {module: updates for module, updates in found if updates}


def _is_sound(name: str, tensor: Tensor) -> bool:
    """Whether a tensor holds finite real numbers, and has the axes that its name asks for: two or more for the halves
    of a LoRA, three or more for its core."""
    return not tensor.is_complex() and tensor.numel() > 0 and is_finite(tensor) and tensor.ndim >= _AXES.get(name, 0)


def _updates(tensors: Mapping[str, Tensor]) -> list[tuple[str, LoKrWeights]]:
    """(parameter, update) of a module's tensors by name. Returns none if a tensor is unknown, not finite, or of a shape
    that its name or the others contradict: a partly understood update is not applied."""
    tensors = {name: t.half() if t.is_floating_point() and t.dtype.itemsize == 1 else t for name, t in tensors.items()}
    if not tensors.keys() <= _KNOWN or not all(_is_sound(name, tensor) for name, tensor in tensors.items()):
        return []
    try:
        return [*_differences(tensors), *_lora(tensors)]
    except LoKrShapeError:
        return []


def _differences(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, LoKrWeights]]:
    for name, parameter in _WHOLE.items():
        if name in tensors:
            tensor = tensors[name]
            whole = tensor if tensor.ndim > 1 else tensor.reshape(-1, 1)
            yield parameter, LoKrWeights(Factor(torch.ones(1, 1)), Factor(whole))


def _lora(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, LoKrWeights]]:
    up = next((tensors[name] for name in _UP if name in tensors), None)
    down = next((tensors[name] for name in _DOWN if name in tensors), None)
    if up is None or down is None:
        return
    up, core = up.flatten(1), tensors.get(_CORE)  # (out, r[, 1, 1]) -> (out, r); (r, r, *kernel)
    # down: (r, in[, *kernel])
    w2 = Factor(a=up, b=down) if core is None else Factor(a=up.T, b=down.flatten(1), t=core)
    stored = tensors.get("alpha")
    if stored is not None and stored.numel() != 1:
        raise LoKrShapeError("alpha is not one number", expected="shape () or (1,)", found=tuple(stored.shape))
    alpha = None if stored is None else float(stored)
    scaling = 1.0 if alpha is None else alpha / up.shape[1]
    if math.isfinite(scaling):
        named = {"lora_magnitude_vector" if name in _MAGNITUDES else name: t for name, t in tensors.items()}
        dora_scale = magnitude_of(named, up.shape[0])
        yield "weight", LoKrWeights(Factor(torch.ones(1, 1)), w2, scaling, dora_scale, alpha)
