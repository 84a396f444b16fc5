"""The product that PEFT trains: w1 ⊗ w2, and for a Conv1d with a whole w2 the reverse, w2 ⊗ w1.

PEFT 0.21 (``tuners/lokr/layer.py: make_kron``) appends axes to w1 for a w2 of four axes only. For three,
``torch.kron`` puts the missing axis in front, and the reshape to the weight's shape makes w2 the outer factor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..kronecker import Factor


def is_reversed(w2: Factor) -> bool:
    """Whether PEFT multiplies this w2 as w2 ⊗ w1: it is whole, (k, n, kernel)."""
    return w2.whole is not None and w2.whole.ndim == 3


def reversed_kron(w1: Tensor, w2: Tensor) -> Tensor:
    """w2 (k, n, *kernel) ⊗ w1 (l, m): (k·l, n·m, *kernel), in w1's dtype.

    >>> reversed_kron(torch.ones(2, 3), torch.ones(4, 5, 7)).shape
    torch.Size([8, 15, 7])
    """
    (k, n, *kernel), (l, m) = w2.shape, w1.shape
    product = torch.einsum("knx,lm->klnmx", w2.flatten(2).to(w1.dtype), w1)  # (k, l, n, m, taps)
    return product.reshape(k * l, n * m, *kernel)


def as_trained(w1: Factor, w2: Factor) -> tuple[Factor, Factor]:
    """Factors whose usual product is the one that PEFT trains.

    Returns ``w1`` and ``w2`` themselves unless ``is_reversed(w2)``; then (w2, w1) for a kernel of 1, else (1, w2 ⊗ w1):
    no factors of the usual form have this product, since the outer one has the kernel.
    """
    if not is_reversed(w2):
        return w1, w2
    if w2.whole.shape[2] == 1:
        return Factor(w2.whole[:, :, 0]), w1
    inner = w1.materialize(torch.promote_types(w2.whole.dtype, torch.float32))
    return Factor(torch.ones(1, 1, dtype=inner.dtype)), Factor(reversed_kron(inner, w2.whole))
