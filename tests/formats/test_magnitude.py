"""DoRA under other names: the trained weight is V * m / ‖V‖ per output, V = W + ΔW."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lokr_core import LoKrError, LoKrShapeError, merge_adapter
from lokr_core.formats import parse_adapter
from tests.formats.lokr_tensors import keyed, lokr

KEYS = ["lora_magnitude_vector", "lora_magnitude_vector.weight", "lora_magnitude_vector.default",
        "lora_magnitude_vector.my style.weight"]  # fmt: skip


def model(layer: nn.Module) -> nn.Module:
    found = nn.Module()
    found.layer = layer.double()
    return found


def trained(weight: torch.Tensor, delta: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    value = (weight + delta).flatten(1)
    return (value * (magnitude.double().reshape(-1, 1) / value.norm(dim=1, keepdim=True))).reshape(weight.shape)


@pytest.mark.parametrize("rank", [2, None])
@pytest.mark.parametrize("shape", [(8,), (8, 1), (1, 8, 1, 1), (1, 8)])
@pytest.mark.parametrize("key", KEYS)
def test_a_magnitude_vector_is_doras(key, shape, rank):
    torch.manual_seed(0)
    magnitude, tensors = torch.rand(shape) + 0.5, lokr(alpha=2, rank=rank)
    adapter = parse_adapter({**keyed("layer", tensors), f"layer.{key}": magnitude, "layer.initial_norm": torch.rand(8)})
    assert adapter["layer"].dora_axis == "out" and adapter.other == {}
    target = model(nn.Linear(6, 8))
    before = target.layer.weight.detach().clone()
    with merge_adapter(target, adapter):
        expected = trained(before, adapter["layer"].delta(torch.float64), magnitude)
        assert torch.allclose(target.layer.weight, expected, rtol=1e-6)
    assert torch.equal(target.layer.weight, before)


def test_of_a_convolution():
    """PEFT's shape there is (1, out, 1, 1)."""
    torch.manual_seed(0)
    tensors = {"lokr_w1": torch.randn(2, 2), "lokr_w2": torch.randn(4, 3, 3, 3)}
    magnitude = torch.rand(1, 8, 1, 1) + 0.5
    adapter = parse_adapter({**keyed("layer", tensors), "layer.lora_magnitude_vector": magnitude})
    target = model(nn.Conv2d(6, 8, 3))
    before = target.layer.weight.detach().clone()
    with merge_adapter(target, adapter):
        expected = trained(before, adapter["layer"].delta(torch.float64), magnitude)
        assert torch.allclose(target.layer.weight, expected, rtol=1e-6)


@pytest.mark.parametrize("numel", [1, 6, 7, 16])
def test_one_that_is_not_as_long_as_the_outputs(numel):
    """Six are the inputs: a magnitude vector is never theirs."""
    with pytest.raises(LoKrShapeError, match="output axis") as caught:
        parse_adapter({**keyed("layer"), "layer.lora_magnitude_vector": torch.ones(numel)})
    assert caught.value.module == "layer" and "8 numbers" in caught.value.expected


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_in_it_is_refused_and_in_the_norm_of_the_base_is_not(value):
    with pytest.raises(LoKrError, match="lora_magnitude_vector holds NaN"):
        parse_adapter({**keyed("layer"), "layer.lora_magnitude_vector": torch.full((8,), value)})
    found = parse_adapter(
        {**keyed("layer"), "layer.lora_magnitude_vector": torch.ones(8), "layer.initial_norm": torch.full((8,), value)}
    )
    assert found["layer"].dora_axis == "out"


def test_the_magnitude_of_a_lora_on_the_same_module_stays_the_loras():
    tensors = {
        **keyed("layer"), "layer.lora_A.weight": torch.ones(2, 6), "layer.lora_B.weight": torch.ones(8, 2),
        "layer.lora_magnitude_vector": torch.ones(8),
    }  # fmt: skip
    adapter = parse_adapter(tensors)
    assert adapter["layer"].dora_scale is None and adapter.other_kinds == {"layer": "LoRA"}
    assert "layer.lora_magnitude_vector" in adapter.other
