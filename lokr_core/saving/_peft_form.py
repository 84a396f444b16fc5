"""Updates in PEFT's layout: tensors, and the ``adapter_config.json`` that gives them their shapes.

PEFT creates a module's factors from its configuration before it loads them, so one ``decompose_factor`` and one
``decompose_both`` must give the shapes of all modules (PEFT 0.21 ``tuners/lokr/layer.py: update_layer``). Where they do
not, factors are rewritten: a low-rank one is multiplied out if PEFT's is whole.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from itertools import count
from math import prod
from typing import Any

import torch
from torch import Tensor

from ..adapter import LoKrWeights
from ..errors import LoKrValueError, blame
from ..kronecker import Factor, factorization
from ..peft import is_reversed, is_whole, names_module, whole_rank

_HINT = "save in a format that can hold it: kohya, lycoris or comfyui"


def peft_layout(
    modules: Mapping[str, LoKrWeights], all_modules: Collection[str] = ()
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """``modules`` in PEFT's layout.

    modules: dotted name -> update; all_modules: the names of all modules of the model, so that ``target_modules`` names
        none of the others

    Returns (tensors by "module.tensor name", the fields of ``LoKrConfig``). Raises LoKrValueError, naming the module,
    if PEFT cannot hold an update.

    >>> weights = LoKrWeights(Factor(torch.ones(2, 2)), Factor(torch.ones(3, 3)))
    >>> tensors, fields = peft_layout({"to_q": weights})
    >>> list(tensors), fields["r"], fields["alpha"], fields["decompose_factor"]
    (['to_q.lokr_w1', 'to_q.lokr_w2'], 2, 2, -1)
    """
    for module, weights in modules.items():
        _check(module, weights)
    factor = _decompose_factor(modules)
    effective = _all_tucker(modules.values())
    both = _all_both(modules.values(), effective)
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for module, weights in modules.items():
        form, r = _form(weights, effective, both)
        if is_reversed(form.w2.rank, form.w2.shape) and form.w2.shape[2] > 1:
            raise LoKrValueError(
                "PEFT multiplies the factors of a Conv1d in reverse if w2 is whole",
                module=module,
                expected="a low-rank w2 of a rank below half of its longer side",
                found=f"w2 {form.w2.shape}",
                hint=_HINT,
            )
        tensors |= {f"{module}.{name}": tensor for name, tensor in _tensors(form).items()}
        ranks[module] = r
        alpha = weights.alpha
        alphas[module] = _plain(alpha if alpha is not None and alpha / r == weights.scaling else weights.scaling * r)
    common_r, rank_pattern = pattern(ranks)
    common_alpha, alpha_pattern = pattern(alphas)
    return tensors, {
        "r": common_r,
        "alpha": common_alpha,
        "rank_pattern": rank_pattern,
        "alpha_pattern": alpha_pattern,
        "decompose_both": both,
        "decompose_factor": factor,
        "use_effective_conv2d": effective,
        "target_modules": _targets(modules, all_modules),
        "peft_type": "LOKR",
    }


def _check(module: str, weights: LoKrWeights) -> None:
    with blame(module=module, hint=_HINT):
        if weights.dora_scale is not None:
            raise LoKrValueError("PEFT's LoKr has no DoRA", found=f"dora_scale {tuple(weights.dora_scale.shape)}")
        if len(weights.w2.kernel) > 2:
            raise LoKrValueError("PEFT's LoKr has no Conv3d", found=f"w2 {weights.w2.shape}")


def _decompose_factor(modules: Mapping[str, LoKrWeights]) -> int:
    """The ``decompose_factor`` with which PEFT splits the sizes of every module as its factors do."""
    sizes = {module: tuple(zip(w.w1.shape[:2], w.w2.shape[:2], strict=True)) for module, w in modules.items()}

    def misses(factor: int) -> list[str]:
        return [m for m, pairs in sizes.items() if any(factorization(a * b, factor) != (a, b) for a, b in pairs)]

    # A factor that divides a size is the first of its pair. One that divides none of the sizes gives each its largest
    # divisor below, and so does the smallest such factor above all firsts. -1 gives the most balanced pair.
    firsts = {a for pairs in sizes.values() for a, _ in pairs}
    products = {a * b for pairs in sizes.values() for a, b in pairs}
    between = next(f for f in count(max(firsts, default=1) + 1) if all(size % f for size in products))
    candidates = (-1, *sorted(firsts), between)
    missed = {factor: misses(factor) for factor in candidates}
    factor = min(missed, key=lambda factor: len(missed[factor]))
    if missed[factor]:
        module = missed[factor][0]
        (l, k), (m, n) = sizes[module]
        raise LoKrValueError(
            "PEFT has one decompose_factor for all modules, and none gives the sizes of all these factors",
            module=module,
            expected=f"out {l * k} and in {m * n} split as {factorization(l * k, factor)}, "
            f"{factorization(m * n, factor)}, as decompose_factor {factor} does, which suits the most",
            found=f"({l}, {k}), ({m}, {n})",
            hint="if these are convolutions, give the model: save_adapter(..., model=model); else " + _HINT,
        )
    return factor


def _low_rank(factor: Factor) -> bool:
    """Whether PEFT holds the factor low-rank at its rank: w1 only with ``decompose_both``."""
    return factor.rank is not None and not is_whole(factor.rank, factor.shape)


def _w2_tucker(weights: LoKrWeights) -> bool:
    """Whether PEFT holds w2 in Tucker form with ``use_effective_conv2d``."""
    t = weights.w2.t
    return t is not None and _low_rank(weights.w2) and t.shape[0] == t.shape[1] and prod(t.shape[2:]) > 1


def _all_tucker(modules: Iterable[LoKrWeights]) -> bool:
    """Whether ``use_effective_conv2d`` suits every low-rank convolution with a kernel."""
    convolutions = [w for w in modules if _low_rank(w.w2) and prod(w.w2.kernel) > 1]
    return bool(convolutions) and all(map(_w2_tucker, convolutions))


def _rank(weights: LoKrWeights, effective: bool) -> int | None:
    """The rank of w2 in PEFT's layout, None if it is to be whole."""
    held = (effective and _w2_tucker(weights)) if weights.is_tucker else _low_rank(weights.w2)
    return weights.w2.rank if held else None


def _w1_low_rank(weights: LoKrWeights, rank: int | None) -> bool:
    """Whether PEFT, with ``decompose_both``, holds w1 low-rank as it is. ``rank``: of w2 in PEFT's layout."""
    w1 = weights.w1
    same = w1.rank == rank if rank is not None or w1.rank is None else is_whole(w1.rank, weights.w2.shape)
    return same and _low_rank(w1)


def _all_both(modules: Collection[LoKrWeights], effective: bool) -> bool:
    """Whether ``decompose_both`` suits every module: at its rank, no whole w1 would be made low-rank."""
    ranks = [(weights, _rank(weights, effective)) for weights in modules]
    wanted = any(_w1_low_rank(weights, rank) for weights, rank in ranks)
    return wanted and all(
        _w1_low_rank(weights, rank) or rank is None or is_whole(rank, weights.w1.shape) for weights, rank in ranks
    )


def _form(weights: LoKrWeights, effective: bool, both: bool) -> tuple[LoKrWeights, int]:
    """(the update with factors as PEFT creates them, the r with which it does)."""
    rank = _rank(weights, effective)
    low_rank_w1 = both and _w1_low_rank(weights, rank)
    w1 = weights.w1 if low_rank_w1 else _multiplied_out(weights.w1.without_kernel())
    w2 = _multiplied_out(weights.w2) if rank is None else weights.w2
    wholes = (w2.shape, weights.w1.shape) if both else (w2.shape,)
    return replace(weights, w1=w1, w2=w2), rank or (low_rank_w1 and weights.w1.rank) or whole_rank(*wholes)


def _multiplied_out(factor: Factor) -> Factor:
    """The factor whole, in fp32 at least: half precision would round it."""
    if factor.a is None:
        return factor
    return Factor(factor.materialize(torch.promote_types(factor.a.dtype, torch.float32)))


def _tensors(form: LoKrWeights) -> dict[str, Tensor]:
    tensors = form.tensors
    if form.is_tucker and tensors["lokr_t2"].ndim < 4:
        # PEFT computes the core of a Conv1d as a Conv2d's, with one more axis.
        tensors["lokr_t2"] = tensors["lokr_t2"].unsqueeze(-1)
    return tensors


def _plain(number: float) -> int | float:
    return int(number) if float(number).is_integer() else number


def pattern(values: Mapping[str, float]) -> tuple[float, dict[str, float]]:
    """(the most common value, {regular expression of a module's whole name: its value} for the others)."""
    common = Counter(values.values()).most_common(1)[0][0]
    return common, {f"^{re.escape(module)}": value for module, value in values.items() if value != common}


def _targets(modules: Collection[str], all_modules: Collection[str]) -> list[str] | str:
    """``target_modules`` that match exactly these modules. PEFT matches list entries as suffixes, so it is an exact
    regular expression if another module ends alike.

    >>> _targets(["to_q"], ["to_q", "up.to_v"]), _targets(["to_q"], ["to_q", "up.to_q"])
    (['to_q'], 'to_q')
    """
    known = set(modules)
    ambiguous = any(names_module(known, name) for name in all_modules if name not in known)
    return "|".join(map(re.escape, modules)) if ambiguous else list(modules)
