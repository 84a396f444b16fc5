"""A small model of every kind of layer, adapters for it, and weights compared bit by bit."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import nn

from lokr_core import Adapter, Factor, LoKrWeights


def _make_model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential()
    model.linear = nn.Linear(6, 8)
    model.block = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Conv2d(8, 4, 3))
    model.conv1 = nn.Conv1d(6, 4, 3, groups=2)
    model.conv3 = nn.Conv3d(4, 4, (3, 1, 2))
    return model.to(dtype)


def _make_adapter(seed: int, modules=("linear", "block.0", "block.1", "conv1", "conv3")) -> Adapter:
    """Whole, low-rank and Tucker factors, DoRA on either axis."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(shape, generator=generator)

    every = {
        "linear": LoKrWeights(Factor(randn(2, 2)), Factor(randn(4, 3)), 0.3, dora_scale=randn(8, 1).abs() + 0.5),
        "block.0": LoKrWeights(Factor(randn(4, 2)), Factor(a=randn(2, 1), b=randn(1, 4)), 0.2),
        "block.1": LoKrWeights(Factor(randn(2, 2)), Factor(a=randn(2, 2), b=randn(2, 4), t=randn(2, 2, 3, 3)), 0.1),
        "conv1": LoKrWeights(Factor(a=randn(2, 1), b=randn(1, 3)), Factor(randn(2, 1, 3)), 0.5),
        "conv3": LoKrWeights(
            Factor(randn(2, 2)), Factor(a=randn(2, 1), b=randn(1, 12)), 0.4, dora_scale=randn(1, 4, 1, 1, 1).abs() + 0.5
        ),
    }
    return Adapter({name: every[name] for name in modules})


def _bits(weights: nn.Module | Mapping[str, torch.Tensor]) -> dict[str, bytes]:
    if isinstance(weights, nn.Module):
        weights = weights.state_dict()
    return {name: t.detach().contiguous().view(torch.uint8).numpy().tobytes() for name, t in weights.items()}


@pytest.fixture(scope="session")
def make_model():
    return _make_model


@pytest.fixture(scope="session")
def make_adapter():
    """seed -> an Adapter for all of the model's modules, or for those named."""
    return _make_adapter


@pytest.fixture(scope="session")
def bits():
    """Every weight of a model or dict as its bytes: -0.0 and NaN's payload count."""
    return _bits


@pytest.fixture
def model():
    return _make_model()


@pytest.fixture
def adapter():
    return _make_adapter(1)
