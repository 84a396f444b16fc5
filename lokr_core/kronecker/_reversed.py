"""w2 ⊗ w1, the product with its factors exchanged, which PEFT trains for some convolutions."""

from __future__ import annotations

import torch
from torch import Tensor

from ._factor import Factor


def reversed_kron(w1: Tensor, w2: Tensor) -> Tensor:
    """w2 (k, n, *kernel) ⊗ w1 (l, m): (k·l, n·m, *kernel), in w1's dtype.

    >>> reversed_kron(torch.ones(2, 3), torch.ones(4, 5, 7)).shape
    torch.Size([8, 15, 7])
    """
    (k, n, *kernel), (l, m) = w2.shape, w1.shape
    product = torch.einsum("knx,lm->klnmx", w2.flatten(2).to(w1.dtype), w1)  # (k, l, n, m, taps)
    return product.reshape(k * l, n * m, *kernel)


def reversed_factors(w1: Factor, w2: Factor) -> tuple[Factor, Factor]:
    """Factors whose usual product is w2 ⊗ w1, for a whole w2 (k, n, kernel).

    Returns (w2, w1) for a kernel of 1, else (1, w2 ⊗ w1): no factors of the usual form have this product, since the
    outer one has the kernel.

    >>> w1, w2 = reversed_factors(Factor(torch.ones(2, 3)), Factor(torch.ones(4, 5, 7)))
    >>> w1.shape, w2.shape
    ((1, 1), (8, 15, 7))
    """
    whole = w2.materialize()  # (k, n, kernel)
    if whole.shape[2] == 1:
        return Factor(whole[:, :, 0]), w1
    inner = w1.materialize(torch.promote_types(whole.dtype, torch.float32))  # (l, m)
    return Factor(torch.ones(1, 1, dtype=inner.dtype)), Factor(reversed_kron(inner, whole))
