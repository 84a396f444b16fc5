"""The maths of LoKr, once: everything else calls it. Pure functions on tensors."""

from ._accumulate import LinearSum, accumulate_kron_
from ._add import add_kron_, kron, materialize
from ._apply import CONV, apply_kron, cols_step, conv_step, embed_kron, ranks_step, rows_step
from ._chain import interleaved, ordered, rank_in_front
from ._dora import add_dora_, dora_ratio
from ._factor import Factor, core_name, fit, rank_of, split_rows
from ._factorization import factorization
from ._nearest import kron_norm, nearest_kron
from ._numerics import autocast_dtype, compute_dtype, full_precision, is_compiling, is_finite

__all__ = [
    "CONV",
    "Factor",
    "LinearSum",
    "accumulate_kron_",
    "add_dora_",
    "add_kron_",
    "apply_kron",
    "autocast_dtype",
    "cols_step",
    "compute_dtype",
    "conv_step",
    "core_name",
    "dora_ratio",
    "embed_kron",
    "factorization",
    "fit",
    "full_precision",
    "interleaved",
    "is_compiling",
    "is_finite",
    "kron",
    "kron_norm",
    "materialize",
    "nearest_kron",
    "ordered",
    "rank_in_front",
    "rank_of",
    "ranks_step",
    "rows_step",
    "split_rows",
]
