"""How far two tensors are apart."""

from __future__ import annotations

import torch


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The norm of the difference, relative to the expected tensor's."""
    return ((found - expected).norm() / expected.norm()).item()
