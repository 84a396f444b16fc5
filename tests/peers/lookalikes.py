"""LoKr layers with the attributes of kohya's and ai-toolkit's, written here: dW is built whole, as theirs is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lokr_core.kronecker import Factor, factorization, materialize

FUNCTIONS = {2: F.linear, 3: F.conv1d, 4: F.conv2d}


class Beside(nn.Module):
    """A layer beside the model: its factors, the layer that it adapts, and its numbers."""

    def __init__(self, base: Any, rank: int = 4, alpha: float = 6, factor: int = -1, **dropouts: float | None):
        super().__init__()
        self.org_module = [base]
        out, columns, *kernel = self.shape = tuple(base.weight.shape)
        (l, k), (m, n) = factorization(out, factor), factorization(columns, factor)
        self.lokr_w1 = nn.Parameter(torch.randn(l, m))
        if rank < max(k, n) / 2:
            self.lokr_w2_a = nn.Parameter(torch.randn(k, rank))
            self.lokr_w2_b = nn.Parameter(torch.zeros(rank, n * torch.Size(kernel).numel()))
        else:
            self.lokr_w2 = nn.Parameter(torch.zeros(k, n, *kernel))
        self.scale, self.multiplier = alpha / rank, 1.0
        self.rank_dropout, self.module_dropout = dropouts.get("rank_dropout"), dropouts.get("module_dropout")
        self.arguments = (
            {} if not kernel else {name: getattr(base, name) for name in ("stride", "padding", "dilation", "groups")}
        )

    def apply_to(self) -> None:
        self.org_forward = self.org_module[0].forward
        self.org_module[0].forward = self.forward

    def randomize(self) -> None:
        """Factors whose product is not 0."""
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)

    def delta(self) -> Tensor:
        """dW with the scaling, of the base weight's shape."""
        tensors = dict(self.named_parameters())
        w1, w2 = Factor.from_tensors(tensors, "lokr_w1"), Factor.from_tensors(tensors, "lokr_w2")
        return materialize(w1, w2).reshape(self.shape) * self.scale

    def multiply(self, x: Tensor, weight: Tensor) -> Tensor:
        return FUNCTIONS[weight.ndim](x, weight, None, **self.arguments)


class Kohya(Beside):
    """As ``networks.lokr`` of sd-scripts and musubi-tuner."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.org_forward(x)
        if self.module_dropout is not None and self.training and torch.rand(1) < self.module_dropout:
            return y
        delta, scale = self.delta(), 1.0
        if self.rank_dropout is not None and self.training:
            kept = torch.rand(len(delta), device=delta.device) > self.rank_dropout
            delta, scale = delta * kept.view(-1, *[1] * (delta.ndim - 1)), 1 / (1 - self.rank_dropout)
        return y + self.multiply(x, delta) * self.multiplier * scale


class Toolkit(Beside):
    """As ai-toolkit's: its network has the switches; the rows drawn below the dropout's number stay."""

    def __init__(self, base: Any, network: Any, **options: Any):
        super().__init__(base, **options)
        self.network_ref = lambda: network
        self._fast_linear = isinstance(base, nn.Linear)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        network = self.network_ref()
        if not network.is_active or network.is_merged_in or network._multiplier == 0:
            return self.org_forward(x, *args, **kwargs)
        update = self.multiply(x, self.delta())
        if self.training and self.rank_dropout:
            update = update * (torch.rand(self.shape[0]) < self.rank_dropout)
        return self.org_forward(x) + update * torch.mean(network.torch_multiplier)


class Unknown(Kohya):
    """Of the same attributes, but it trains something else."""

    def forward(self, x: Tensor) -> Tensor:
        return self.org_forward(x) + self.multiply(x, self.delta().tanh())


def switches(multiplier: float = 0.5) -> SimpleNamespace:
    """The part of ai-toolkit's network that its layers ask."""
    ones = torch.full((1,), multiplier)
    return SimpleNamespace(
        is_lorm=False, is_active=True, is_merged_in=False, _multiplier=multiplier, torch_multiplier=ones
    )


def network(model: nn.Module, make: Any) -> nn.ModuleList:
    """``make(layer)`` for each Linear and convolution of ``model``, applied."""
    layers = nn.ModuleList(make(m) for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d)))
    for layer in layers:
        layer.apply_to()
    return layers
