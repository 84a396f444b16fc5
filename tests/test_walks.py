"""The first product of a LoKr is few files and calls away from where one calls: printed (``-s``) and bounded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lokr_core import Adapter, Factor, LoKrConfig, LoKrWeights, attach, merge_adapter
from lokr_core.live import FACTORED, THROUGH, LiveHook, forced
from lokr_core.live._call import Call
from lokr_core.tuner import Linear
from tests.walks import walk


def shown(what: str, found) -> None:
    print(f"\n{what}: {found}")


@pytest.mark.parametrize("rank", [2, 8])
def test_a_trainable_linear(rank):
    layer = Linear(nn.Linear(32, 48).requires_grad_(False), "default", LoKrConfig(), r=rank, alpha=2)
    x = torch.randn(3, 32)
    layer(x)
    found = walk(Linear.forward, lambda: layer(x), {(48, 32)})
    shown(f"trainable Linear, rank {rank}", found)
    assert len(found.files_on_stack) <= 4
    assert len(found.files_entered) <= 4


@pytest.fixture
def model_and_adapter():
    torch.manual_seed(0)
    weights = LoKrWeights(Factor(torch.randn(6, 4)), Factor(a=torch.randn(8, 2), b=torch.randn(2, 8)))
    return nn.Sequential(nn.Linear(32, 48)), Adapter({"0": weights})


@pytest.mark.parametrize("way", [FACTORED, THROUGH])
def test_a_live_linear(model_and_adapter, way):
    model, adapter = model_and_adapter
    x = torch.randn(3, 32)
    start = LiveHook.__call__ if way == FACTORED else Call.__torch_function__
    with attach(model, adapter, 0.5), torch.no_grad(), forced(way):
        model(x)
        found = walk(start, lambda: model(x), {(48, 32)})
    shown(f"live Linear, {way}", found)
    assert len(found.files_on_stack) <= 4 and len(found.stack) <= 7


def test_merging(model_and_adapter):
    model, adapter = model_and_adapter
    found = walk(merge_adapter, lambda: merge_adapter(model, adapter, 0.5).remove(), {(48, 32)})
    shown("merge_adapter", found)
    assert len(found.files_on_stack) <= 5
