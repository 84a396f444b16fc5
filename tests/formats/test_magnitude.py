"""DoRA under other names: the trained weight is V * m / ‖V‖ per output, V = W + ΔW."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lokr_core import LoKrError, LoKrShapeError, attach, load_adapter, merge_adapter, save_adapter
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


def over_the_bases_norm(weight: torch.Tensor, tensors: dict, magnitude: torch.Tensor) -> dict:
    """A module as musubi-tuner's LTX-2 fork converts it for ComfyUI, which divides by ‖W‖ instead of ‖V‖."""
    value = (weight + parse_adapter(keyed("layer", tensors))["layer"].delta(torch.float64)).flatten(1).norm(dim=1)
    norm = weight.flatten(1).norm(dim=1)
    return {**tensors, "dora_scale": (magnitude * norm / value).reshape(-1, 1), "initial_norm": norm}


@pytest.mark.parametrize("way", ["merge", "live", "saved"])
@pytest.mark.parametrize("rank", [2, None])
def test_a_magnitude_that_stands_over_the_norm_of_the_base(rank, way, tmp_path):
    torch.manual_seed(0)
    target, x = model(nn.Linear(6, 8)), torch.randn(3, 6).double()
    before, bias = target.layer.weight.detach().clone(), target.layer.bias.detach()
    magnitude = torch.rand(8).double() + 0.5
    adapter = parse_adapter(keyed("layer", over_the_bases_norm(before, lokr(2, rank), magnitude)))
    assert "initial_norm" in adapter["layer"].notes[-1]
    expected = trained(before, adapter["layer"].delta(torch.float64), magnitude)
    if way == "saved":
        save_adapter(adapter, tmp_path / "a.safetensors")
        adapter = load_adapter(tmp_path / "a.safetensors")
    for strength in (1.0, 0.4):
        wanted = before + strength * (expected - before)
        with attach(target, adapter, strength) if way == "live" else merge_adapter(target, adapter, strength):
            assert torch.allclose(target.layer(x), x @ wanted.T + bias, rtol=1e-6)
        assert torch.equal(target.layer.weight, before)


def test_its_rows_are_cut_with_the_rest():
    torch.manual_seed(0)
    weight = torch.randn(8, 6).double()
    tensors = over_the_bases_norm(weight, lokr(2, None), torch.rand(8).double() + 0.5)
    update, whole = parse_adapter(keyed("layer", tensors))["layer"], weight.clone()
    update.add_to_(whole)
    for start, length in ((0, 8), (3, 4), (5, 1)):
        part = weight[start : start + length].clone()
        for offset, piece in update.rows(start, length):
            piece.add_to_(part[offset : offset + piece.shape[0]])
        assert torch.allclose(part, whole[start : start + length])


@pytest.mark.parametrize("norm", [torch.ones(7), torch.ones(()), torch.full((8,), torch.nan), torch.ones(0)])
def test_a_norm_that_is_none(norm):
    with pytest.raises(LoKrError) as caught:
        parse_adapter(keyed("layer", {**lokr(dora=True), "initial_norm": norm}))
    assert caught.value.module == "layer" and "norm" in str(caught.value)
