"""The maths of LoKr, once: everything else calls it. Pure functions on tensors."""

from .accumulate import LinearSum, accumulate_kron_
from .add import add_kron_, kron, materialize
from .apply import apply_kron, embed_kron
from .blocks import fit
from .dora import add_dora_, dora_ratio
from .factor import Factor
from .factorization import factorization
from .rows import split_rows

__all__ = [
    "Factor",
    "LinearSum",
    "accumulate_kron_",
    "add_dora_",
    "add_kron_",
    "apply_kron",
    "dora_ratio",
    "embed_kron",
    "factorization",
    "fit",
    "kron",
    "materialize",
    "split_rows",
]
