"""Updates in the form that PEFT's LoKr holds: tensors, and the ``adapter_config.json`` that gives them their shapes.

PEFT makes a module's factors anew from its configuration before it loads them, so one ``decompose_factor`` and one
``decompose_both`` must give the shapes of all modules (PEFT 0.21 ``tuners/lokr/layer.py: update_layer``). What they do
not give is rewritten: a low-rank factor is multiplied out where PEFT wants a whole one.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from ..adapter import LoKrWeights
from ..errors import LoKrValueError
from ..kronecker import Factor, factorization

_ELSE = "save in a format that can hold it: kohya, lycoris or comfyui"


def peft_layout(
    modules: Mapping[str, LoKrWeights], all_modules: Collection[str] = ()
) -> tuple[dict[str, Tensor], dict[str, object]]:
    """(tensors by "module.tensor name", fields of PEFT's ``LoKrConfig``) of ``modules``, by their dotted names.

    all_modules: the names of all modules of the model, so that ``target_modules`` names none of the others.
    Raises LoKrValueError that names the module where PEFT has no such form.
    """
    for module, weights in modules.items():
        _check(module, weights)
    factor = _decompose_factor(modules)
    effective = _all_tucker(modules.values())
    both = _all_both(modules.values(), effective)
    tensors, ranks, alphas = {}, {}, {}
    for module, weights in modules.items():
        form = _form(weights, effective, both)
        if form.w2.whole is not None and form.w2.whole.ndim == 3 and form.w2.shape[2] > 1:
            raise LoKrValueError(
                "PEFT multiplies the factors of a Conv1d the other way round where w2 is whole",
                module=module,
                expected="a low-rank w2 of a rank below half of its longer side",
                found=f"w2 {form.w2.shape}",
                hint=_ELSE,
            )
        tensors.update({f"{module}.{name}": tensor for name, tensor in _tensors(form).items()})
        ranks[module] = form.r
        kept = weights.alpha is not None and weights.alpha / form.r == weights.scaling
        alphas[module] = _plain(weights.alpha if kept else weights.scaling * form.r)
    r, ranks = _pattern(ranks)
    alpha, alphas = _pattern(alphas)
    return tensors, {
        "r": r,
        "alpha": alpha,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "decompose_both": both,
        "decompose_factor": factor,
        "use_effective_conv2d": effective,
        "target_modules": _targets(modules, all_modules),
        "peft_type": "LOKR",
    }


def _check(module: str, weights: LoKrWeights) -> None:
    problem = ""
    if weights.dora_scale is not None:
        problem, found = "PEFT's LoKr has no DoRA", f"dora_scale {tuple(weights.dora_scale.shape)}"
    elif len(weights.w2.kernel) > 2:
        problem, found = "PEFT's LoKr has no Conv3d", f"w2 {weights.w2.shape}"
    if problem:
        raise LoKrValueError(problem, module=module, found=found, hint=_ELSE)


def _decompose_factor(modules: Mapping[str, LoKrWeights]) -> int:
    """The one factor under which PEFT splits every module's sizes as they are split."""
    sizes = {module: tuple(zip(w.w1.shape[:2], w.w2.shape[:2], strict=True)) for module, w in modules.items()}

    def misses(factor: int) -> list[str]:
        return [m for m, pairs in sizes.items() if any(factorization(a * b, factor) != (a, b) for a, b in pairs)]

    # Where a factor divides a size it is the first of the pair itself, and -1 asks for the most balanced pair.
    candidates = (-1, *sorted({pair[0] for pairs in sizes.values() for pair in pairs}))
    missed = {factor: misses(factor) for factor in candidates}
    factor = min(missed, key=lambda factor: len(missed[factor]))
    if missed[factor]:
        module = missed[factor][0]
        (l, k), (m, n) = sizes[module]
        raise LoKrValueError(
            "PEFT has one decompose_factor for all modules, and none splits these as they are split",
            module=module,
            expected=f"out {l * k} and in {m * n} split as {factorization(l * k, factor)}, "
            f"{factorization(m * n, factor)}, as decompose_factor {factor} does, which suits the most",
            found=f"({l}, {k}), ({m}, {n})",
            hint="where these are convolutions, give the model: save_adapter(..., model=model); else " + _ELSE,
        )
    return factor


@dataclass(frozen=True)
class _Form:
    """Factors as PEFT makes them for rank ``r``."""

    w1: Factor
    w2: Factor
    r: int


def _w2_low_rank(weights: LoKrWeights) -> bool:
    """Whether PEFT would hold w2 as two halves at its rank."""
    w2 = weights.w2
    return w2.rank is not None and w2.rank < max(w2.shape[:2]) / 2


def _w2_tucker(weights: LoKrWeights) -> bool:
    t = weights.w2.t
    return t is not None and _w2_low_rank(weights) and t.shape[0] == t.shape[1] and prod(t.shape[2:]) > 1


def _all_tucker(modules: Iterable[LoKrWeights]) -> bool:
    """Whether ``use_effective_conv2d`` holds: it is for all convolutions with a kernel and a low rank."""
    convolutions = [w for w in modules if _w2_low_rank(w) and prod(w.w2.kernel) > 1]
    return bool(convolutions) and all(map(_w2_tucker, convolutions))


def _rank(weights: LoKrWeights, effective: bool) -> int | None:
    """The rank that w2's form asks for; None where it is to be whole."""
    held = (effective and _w2_tucker(weights)) if weights.is_tucker else _w2_low_rank(weights)
    return weights.w2.rank if held else None


def _w1_low_rank(weights: LoKrWeights, rank: int | None) -> bool:
    """Whether PEFT, with ``decompose_both``, holds w1 as the halves that it has."""
    w1 = weights.w1
    if w1.rank is None or not w1.rank < max(w1.shape) / 2:
        return False
    return w1.rank == rank if rank is not None else w1.rank >= max(weights.w2.shape[:2]) / 2


def _all_both(modules: Collection[LoKrWeights], effective: bool) -> bool:
    """Whether ``decompose_both`` holds; then no module with a whole w1 may have a rank at which it would be halved."""
    ranks = [(weights, _rank(weights, effective)) for weights in modules]
    wanted = any(_w1_low_rank(weights, rank) for weights, rank in ranks)
    return wanted and all(
        _w1_low_rank(weights, rank) or rank is None or rank >= max(weights.w1.shape) / 2 for weights, rank in ranks
    )


def _form(weights: LoKrWeights, effective: bool, both: bool) -> _Form:
    rank = _rank(weights, effective)
    halved = both and _w1_low_rank(weights, rank)
    w1 = weights.w1 if halved else _multiplied_out(weights.w1.without_kernel())
    w2 = _multiplied_out(weights.w2) if rank is None else weights.w2
    if rank is None:
        # Any rank from half of the longer side on makes w2 whole; w1 has a say as well where it may be halved.
        longest = max(*w2.shape[:2], *(weights.w1.shape if both else ()))
        rank = weights.w1.rank if halved else max(1, math.ceil(longest / 2))
    return _Form(w1, w2, rank)


def _multiplied_out(factor: Factor) -> Factor:
    """The factor whole, in fp32 at least, for a half would round it."""
    if factor.whole is not None:
        return factor
    dtype = torch.promote_types(factor.a.dtype, torch.float32)
    return Factor(factor.materialize(dtype))


def _tensors(form: _Form) -> dict[str, Tensor]:
    tensors = {}
    for name, factor in (("lokr_w1", form.w1), ("lokr_w2", form.w2)):
        if factor.whole is not None:
            tensors[name] = factor.whole
            continue
        tensors[f"{name}_a"], tensors[f"{name}_b"] = factor.a, factor.b if factor.b.ndim == 2 else factor.b.flatten(1)
        if factor.t is not None:
            # A Conv1d's core has an axis more, for PEFT computes it as a Conv2d's.
            tensors["lokr_t2"] = factor.t if factor.t.ndim == 4 else factor.t.unsqueeze(-1)
    return tensors


def _plain(number: float) -> int | float:
    return int(number) if float(number).is_integer() else number


def _pattern(values: Mapping[str, float]) -> tuple[float, dict[str, float]]:
    """(the commonest value, {regular expression of a module's whole name: its value} for the others)."""
    common = Counter(values.values()).most_common(1)[0][0]
    return common, {f"^{re.escape(module)}": value for module, value in values.items() if value != common}


def _targets(modules: Collection[str], all_modules: Collection[str]) -> list[str] | str:
    """``target_modules`` for just these; a name in a list also stands for every longer one that ends in it."""
    endings = {name[at + 1 :] for name in all_modules if name not in modules for at in _dots(name)}
    return "|".join(map(re.escape, modules)) if endings & set(modules) else list(modules)


def _dots(name: str) -> list[int]:
    return [at for at, sign in enumerate(name) if sign == "."]
