"""What the tests of the way through the weight share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from lokr_core import Adapter
from lokr_core.live import _call as calls


def expected(layer: nn.Module, adapter: Adapter, x: torch.Tensor, strength: float) -> torch.Tensor:
    return F.linear(x, layer.weight + strength * adapter["0"].delta(torch.float64), layer.bias)


def clean() -> bool:
    """Whether no call is open on this thread, and no mode is left."""
    return calls.current() is None and torch.overrides._get_current_function_mode() is None
