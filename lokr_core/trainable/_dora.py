"""DoRA's magnitude at the start, and its ratio for training: from the factors, without building W + dW."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kronecker import Factor


def trainable_dora_ratio(
    weight: Tensor,
    w1: Factor,
    w2: Factor,
    scale: float,
    dora_scale: Tensor,
    *,
    axis: str,
    swapped: bool = False,
    kept: Tensor | None = None,
) -> Tensor:
    """dora_scale / (‖V‖ + eps) for V = W + scale * dW, of each row ("out") or column ("in"): (out,) or (in,).

    weight: W (out, in, *kernel); w1 (l, m), w2 (k, n, *kernel); dora_scale: out or in numbers
    swapped: whether dW is w2 ⊗ w1; kept: (out,), multiplies the rows of dW (rank dropout)

    ‖V‖² = ‖W‖² + 2 scale <W, dW> + scale² ‖dW‖², where <W, w1 ⊗ w2> is W contracted with one factor after the other
    and ‖w1 ⊗ w2‖ the product of the factors' norms. The formula, with the gradient through the norm, is LyCORIS'
    (``functional/general.py: weight_decompose``). Computed in w1's dtype, whose eps it is: training in half precision
    has LyCORIS' coarser one, where ``dora_ratio`` computes in fp32.
    """
    first, second = w1.materialize(), w2.materialize()[..., None].flatten(2)  # (l, m), (k, n, taps)
    (l, m), (k, n, _) = first.shape, second.shape
    base = _grid(weight.to(first.dtype), l, k, m, n, swapped)  # (l, k, m, n, taps)
    rows = torch.ones((), dtype=first.dtype, device=first.device)
    if kept is not None:
        kept = kept.to(first.dtype)
        rows = kept.view(k, l).T if swapped else kept.view(l, k)  # (l, k)
    if axis == "out":
        squares = torch.linalg.vector_norm(base, dim=(2, 3, 4)).square()  # (l, k)
        # (l, 1, 1, m) @ (l, k, m, n * taps): a product of matrices for each l and k, without a copy of W.
        inner = (torch.matmul(first[:, None, None], base.flatten(3)).squeeze(2) * second.flatten(1)).sum(-1)
        own = first.square().sum(1)[:, None] * second.square().sum((1, 2))
        squares = squares + 2 * scale * rows * inner + (scale * rows).square() * own
    else:
        squares = torch.linalg.vector_norm(base, dim=(0, 1, 4)).square()  # (m, n)
        weighted = base if kept is None else base * rows[:, :, None, None, None]
        inner = (torch.einsum("lkmns,lm->kmns", weighted, first) * second[:, None]).sum((0, 3))
        own = torch.einsum("lk,lm,kn->mn", rows.square().expand(l, k), first.square(), second.square().sum(2))
        squares = squares + 2 * scale * inner + scale**2 * own
    squares = squares.T if swapped else squares
    eps = torch.finfo(squares.dtype).eps
    # If V almost vanishes, rounding can leave a square below 0; and a root has no gradient at 0.
    norm = squares.reshape(-1).clamp_min(eps**2).sqrt()
    return dora_scale.to(norm.dtype).flatten() / (norm + eps)


def _grid(weight: Tensor, l: int, k: int, m: int, n: int, swapped: bool) -> Tensor:
    """``weight`` (out, in, *kernel) as a view (l, k, m, n, taps)."""
    flat = weight[..., None].flatten(2)  # (out, in, taps)
    if swapped:
        return flat.unflatten(1, (n, m)).unflatten(0, (k, l)).permute(1, 0, 3, 2, 4)
    return flat.unflatten(1, (m, n)).unflatten(0, (l, k))


def weight_norms(weight: Tensor, axis: str) -> Tensor:
    """DoRA's magnitude at the start, in fp32 at least: the norms of a weight (out, in, *kernel) for each row ("out"),
    (out, 1, ...), or column ("in"), (1, in, 1, ...)."""
    over = [d for d in range(weight.ndim) if d != (0 if axis == "out" else 1)]
    weight = weight.detach().float() if weight.element_size() == 1 else weight.detach()  # fp8 has no arithmetic
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return torch.linalg.vector_norm(weight, dim=over, keepdim=True, dtype=dtype)
