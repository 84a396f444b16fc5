"""The values that an adapter's parameters start from."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ._shapes import AdapterShapes


@torch.no_grad()
def initialize_(tensors: Mapping[str, Tensor], shapes: AdapterShapes, init_weights: bool | str) -> None:
    """Set the parameters, by name: W1 = 0 (True), W2 = 0 ("lycoris"), or neither (False); the others are Kaiming's."""
    zero = None
    if init_weights == "lycoris":
        zero = "lokr_w2" if shapes.r2 is None else "lokr_w2_b"
    elif init_weights:
        zero = "lokr_w1" if shapes.r1 is None else "lokr_w1_a"
    for name, tensor in tensors.items():
        if name == zero:
            nn.init.zeros_(tensor)
        else:
            nn.init.kaiming_uniform_(tensor, a=math.sqrt(5))


def weight_norms(weight: Tensor, axis: str) -> Tensor:
    """DoRA's magnitude at the start, in fp32 at least: the norms of a weight (out, in, *kernel) for each row ("out"),
    (out, 1, ...), or column ("in"), (1, in, 1, ...)."""
    over = [d for d in range(weight.ndim) if d != (0 if axis == "out" else 1)]
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return torch.linalg.vector_norm(weight.detach(), dim=over, keepdim=True, dtype=dtype)
