"""A model with every kind of layer that live knows, and adapters for it made of random factors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lokr_core import Adapter, Factor, LoKrWeights, factorization
from lokr_core.live import THROUGH, forced


class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(12, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.linear = nn.Linear(8, 12)
        self.norm = nn.LayerNorm(12)
        self.conv1 = nn.Conv1d(12, 8, 3, padding=2, padding_mode="circular", dilation=2)
        self.conv2 = nn.Conv2d(8, 12, 3, padding=1, padding_mode="reflect", stride=2, groups=2)
        self.conv3 = nn.Conv3d(6, 4, (1, 2, 3), padding=(0, 1, 1), bias=False)
        self.up = nn.ConvTranspose2d(4, 6, 2)

    def forward(self, index):
        x = self.embedding(index)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = self.norm(self.linear(x)).transpose(1, 2)
        x = self.conv1(x)
        x = self.conv2(x.unsqueeze(2) * torch.ones(4, 1, dtype=x.dtype, device=x.device))
        x = self.conv3(x.unflatten(1, (6, 2)))
        return self.up(x.flatten(2, 3))


def _lokr(shape: tuple[int, ...], generator: torch.Generator, form: str, dora: str | None) -> LoKrWeights:
    def randn(*size):
        return torch.randn(size, generator=generator).double()

    out, columns, *kernel = shape
    (l, k), (m, n) = factorization(out, 2), factorization(columns, 2)
    w2 = Factor(randn(k, n, *kernel)) if form == "whole" else Factor(a=randn(k, 1), b=randn(1, n, *kernel))
    scale = None
    if dora is not None:
        size = (out, *(1,) * (len(shape) - 1)) if dora == "out" else (1, columns, *(1,) * len(kernel))
        scale = randn(*size).abs() + 0.5
    return LoKrWeights(Factor(randn(l, m)), w2, 0.3, dora_scale=scale)


@pytest.fixture(scope="session")
def make_lokr():
    """(shape, seed, form "whole" or "low-rank", DoRA axis) -> an update for a weight of that shape."""
    return lambda shape, seed=0, form="low-rank", dora=None: _lokr(
        shape, torch.Generator().manual_seed(seed), form, dora
    )


@pytest.fixture
def everything() -> nn.Module:
    torch.manual_seed(0)
    return Everything().double()


@pytest.fixture
def index() -> torch.Tensor:
    return torch.arange(12).reshape(2, 6)


LAYERS = ("embedding", "attention.out_proj", "linear", "conv1", "conv2", "conv3", "up")


@pytest.fixture
def make_adapter(everything, make_lokr):
    """(seed, DoRA axis, names) -> an adapter for all of ``everything``'s layers, or those named."""

    def make(seed: int = 1, dora: str | None = None, names=LAYERS) -> Adapter:
        weights = {name: everything.get_submodule(name).weight for name in names}
        form = "whole" if seed % 2 else "low-rank"
        return Adapter(
            {name: make_lokr(tuple(w.shape), seed + i, form, dora) for i, (name, w) in enumerate(weights.items())}
        )

    return make


@pytest.fixture
def through():
    with forced(THROUGH), torch.no_grad():
        yield


@pytest.fixture
def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(8, 12).double()


@pytest.fixture
def x(layer) -> torch.Tensor:
    return torch.randn(5, 8).double()


@pytest.fixture
def adapter(make_lokr) -> Adapter:
    return Adapter({"0": make_lokr((12, 8))})
