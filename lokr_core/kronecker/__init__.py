"""The maths of W1 ⊗ W2, once: everything else calls it. Pure functions on tensors.

``add_kron_`` and ``add_dora_`` add it to a weight, ``apply_kron``, ``accumulate_kron_`` and ``plus_kron`` to an output.
"""

import warnings

from ._add import add_kron_, materialize
from ._apply import PlannedConv, PlannedLinear, accumulate_kron_, apply_kron, embed_kron
from ._autograd import followed, fused_linear, linear_plus_kron, own_forward, plain_autograd, plus_kron, untouched
from ._chain import linear_plan, planned
from ._costs import CPU, GPU, Rates, goes_through, short_run
from ._dora import add_dora_, dora_ratio
from ._factor import Factor, core_name, fit, rank_of, split_rows
from ._factorization import factorization
from ._nearest import kron_norm, nearest_kron
from ._numerics import autocast_dtype, compute_dtype, full_precision, is_compiling, is_finite, same_numbers
from ._reversed import reversed_factors, reversed_kron
from ._scratch import back, release_scratch, take
from ._steps import F_CONV, Plan
from ._tiles import kron
from ._update_costs import update_costs
from ._updated import Update, updated_weight

__all__ = [
    "CPU",
    "F_CONV",
    "Factor",
    "GPU",
    "Plan",
    "PlannedConv",
    "PlannedLinear",
    "Rates",
    "Update",
    "accumulate_kron_",
    "add_dora_",
    "add_kron_",
    "apply_kron",
    "autocast_dtype",
    "back",
    "compute_dtype",
    "core_name",
    "dora_ratio",
    "embed_kron",
    "factorization",
    "fit",
    "followed",
    "full_precision",
    "fused_linear",
    "goes_through",
    "is_compiling",
    "is_finite",
    "kron",
    "kron_norm",
    "linear_plan",
    "linear_plus_kron",
    "materialize",
    "nearest_kron",
    "own_forward",
    "plain_autograd",
    "planned",
    "plus_kron",
    "rank_of",
    "release_scratch",
    "reversed_factors",
    "reversed_kron",
    "same_numbers",
    "short_run",
    "split_rows",
    "take",
    "untouched",
    "update_costs",
    "updated_weight",
]


def __getattr__(name: str) -> type:
    """``LinearSum``, the old name of ``PlannedLinear``."""
    if name == "LinearSum":
        warnings.warn("LinearSum is called PlannedLinear now", DeprecationWarning, stacklevel=2)
        return PlannedLinear
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
