"""One module's tensors -> its ``LoKrWeights``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..adapter import LoKrWeights
from ..errors import LoKrFileError, LoKrShapeError, LoKrValueError
from ..kronecker import Factor, core_name, is_finite, reversed_factors
from ..peft import MAGNITUDE, is_reversed, magnitude_of

_NUMBERS = ("alpha", "lokr_dim")
"""The tensors of a module that are one number."""


def weights_of(
    tensors: dict[str, Tensor], scaling_of: Callable[..., tuple[float, tuple[str, ...]]], peft: bool
) -> LoKrWeights:
    """One module's ``LoKrWeights``.

    tensors: by name; peft: whether PEFT trained it
    scaling_of: the function of that name, for the module and its file's metadata
    """
    notes: list[str] = []
    if "lokr_t1" in tensors:
        notes.append("lokr_t1 is ignored: no trainer gives it a meaning")
        tensors = {name: tensor for name, tensor in tensors.items() if name != "lokr_t1"}
    if MAGNITUDE in tensors or "dora_scale" not in tensors:
        tensors = {name: tensor for name, tensor in tensors.items() if name != "initial_norm"}  # ‖W‖: V's norm counts
    if any(tensor.dtype.itemsize == 1 for name, tensor in tensors.items() if name not in _NUMBERS):
        notes.append("fp8 factors, read as fp16")
    tensors = {name: _checked(name, tensor) for name, tensor in tensors.items()}
    w1, w2 = _factor(tensors, "lokr_w1"), _factor(tensors, "lokr_w2")
    for name, factor in (("lokr_w1", w1), ("lokr_w2", w2)):
        if factor.whole is not None and {f"{name}_a", f"{name}_b", core_name(name)} & tensors.keys():
            notes.append(f"{name} is stored whole and low-rank: the whole one is taken, as LyCORIS does")
    alpha, dim = (float(tensors[name]) if name in tensors else None for name in _NUMBERS)
    scaling, assumed = scaling_of(alpha, w1, w2, dim=dim)
    notes += assumed
    if alpha is None and peft and is_reversed(w2.rank, w2.shape):
        w1, w2 = reversed_factors(w1, w2)
        notes.append("PEFT trains a Conv1d's whole factors as w2 ⊗ w1, and so they are read")
    dora_scale = magnitude_of(tensors, w1.shape[0] * w2.shape[0])
    if MAGNITUDE in tensors and "dora_scale" in tensors:
        notes.append(f"there are two magnitudes of DoRA: {MAGNITUDE} is taken, not dora_scale")
    norm = tensors.get("initial_norm")
    if norm is not None:
        norm = norm.flatten()
        notes.append("DoRA's magnitude stands over initial_norm, as musubi-tuner's LTX-2 fork converts it for ComfyUI")
    return LoKrWeights(w1, w2, scaling, dora_scale, alpha, tuple(dict.fromkeys(notes)), norm)


def _checked(name: str, tensor: Tensor) -> Tensor:
    """The tensor with fp8 upcast, alpha as a single number. Raises LoKrValueError if a number is not finite (alpha's
    is checked where it counts) or a factor is not of floating point."""
    if name in _NUMBERS:
        if tensor.numel() != 1:
            raise LoKrShapeError(f"{name} is not one number", expected="shape () or (1,)", found=tuple(tensor.shape))
        if tensor.is_complex():
            raise LoKrValueError(f"{name} is complex", expected="a real number", found=complex(tensor.reshape(())))
        return tensor.double().reshape(())
    if not tensor.is_floating_point():
        raise LoKrValueError(
            f"{name} is not stored as floating point numbers",
            expected="fp32, fp16, bf16 or fp8",
            found=str(tensor.dtype).removeprefix("torch."),
            hint="quantised factors are useless without their scales; get the file as its trainer wrote it",
        )
    if tensor.dtype.itemsize == 1:
        tensor = tensor.half()
    if tensor.numel() == 0:
        raise LoKrValueError(f"{name} is empty", expected="at least one number", found=tuple(tensor.shape))
    if not is_finite(tensor):
        raise LoKrValueError(
            f"{name} holds NaN or Inf",
            expected="finite numbers",
            found=f"{int((~torch.isfinite(tensor)).sum()):,} of {tensor.numel():,} are not",
            hint="the training went wrong; use an earlier checkpoint",
        )
    return tensor


def _factor(tensors: Mapping[str, Tensor], name: str) -> Factor:
    """The factor ``lokr_w1`` or ``lokr_w2``. Raises LoKrFileError if its tensors are incomplete."""
    if name not in tensors and not {f"{name}_a", f"{name}_b"} <= tensors.keys():
        raise LoKrFileError(
            f"The module is incomplete: {name} is missing",
            expected=f"{name}, or {name}_a and {name}_b",
            found=", ".join(sorted(tensors)) or "lokr_t1 alone",
        )
    return Factor.from_tensors(tensors, name)
