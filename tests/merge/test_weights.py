"""Merging into what holds weights: strided, tied, made in inference mode, quantised, not loaded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lokr_core import Adapter, Factor, LoKrValueError, LoKrWeights, merge_adapter


def test_entries_of_a_dict_that_are_no_weights_are_left_alone(model, adapter, bits):
    weights = {**model.state_dict(), "step": 3, "name": "x", "nothing": None, "scalar": torch.tensor(1.0),
               "sparse": torch.eye(3).to_sparse(), "empty": torch.zeros(0, 3)}  # fmt: skip
    before = bits(model)
    with merge_adapter(weights, adapter) as handle:
        assert handle.report.complete and weights["step"] == 3
    assert bits(model) == before


def test_non_contiguous_weights(model, adapter, bits):
    weights = dict(model.state_dict())
    with merge_adapter(weights, adapter):
        expected = {name: tensor.clone() for name, tensor in weights.items()}
    views = {}
    for name, tensor in weights.items():
        reverse = list(range(tensor.ndim))[::-1]
        views[name] = tensor.permute(reverse).contiguous().permute(reverse)
        buffer = torch.zeros(2 * tensor.shape[0], *tensor.shape[1:])
        views[name + "x"] = buffer[::2].copy_(tensor)
    assert not views["conv3.weight"].is_contiguous() and not views["conv3.weightx"].is_contiguous()
    strided = {name: views[name + "x"] for name in weights}
    for held in ({name: views[name] for name in weights}, strided):
        before = bits(held)
        with merge_adapter(held, adapter):
            assert all(torch.allclose(held[name], expected[name], atol=1e-6) for name in weights)
        assert bits(held) == before


def test_gradients_flow_around_a_merge(model, adapter):
    assert all(parameter.requires_grad for parameter in model.parameters())
    x = torch.randn(2, 6)
    with merge_adapter(model, adapter):
        assert all(parameter.requires_grad and parameter.is_leaf for parameter in model.parameters())
        model.linear(x).sum().backward()
    assert model.linear.weight.grad is not None


@pytest.mark.parametrize("merged_in_inference_mode", [True, False])
@pytest.mark.parametrize("made_in_inference_mode", [True, False])
def test_inference_mode(make_model, adapter, bits, made_in_inference_mode, merged_in_inference_mode):
    with torch.inference_mode(made_in_inference_mode):
        model = make_model()
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert weights["linear.weight"].is_inference() == made_in_inference_mode
    for held in (model, weights):
        before = bits(held)
        with torch.inference_mode(merged_in_inference_mode):
            handle = merge_adapter(held, adapter)
        assert bits(held) != before
        handle.strength = 0.5
        with torch.inference_mode(not merged_in_inference_mode):
            handle.strength = 0.7
            handle.remove()
        assert bits(held) == before


@pytest.mark.parametrize("as_dict", [True, False])
@pytest.mark.parametrize("named", [["first"], ["second"], ["first", "second"]])
def test_tied_weights_are_changed_once_under_any_of_their_names_and_the_report_says_so(bits, named, as_dict):
    model = nn.Sequential()
    model.first, model.second = nn.Linear(4, 4), nn.Linear(4, 4)
    model.second.weight = model.first.weight
    update = LoKrWeights(Factor(torch.eye(2)), Factor(torch.ones(2, 2)))
    before, original = bits(model), model.first.weight.detach().clone()
    with merge_adapter(model.state_dict() if as_dict else model, Adapter(dict.fromkeys(named, update))) as handle:
        assert handle.report.complete
        assert torch.allclose(model.first.weight, original + len(named) * update.delta())
        assert model.second.weight is model.first.weight
        assert "first.weight = second.weight" in handle.report.text()
    assert bits(model) == before


def test_no_note_on_sharing_where_nothing_shared_is_changed(make_adapter, model):
    model.twin = nn.Linear(6, 8)
    model.twin2 = model.twin
    with merge_adapter(model, make_adapter(1)) as handle:
        assert handle.report.notes == []


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.complex64])
def test_a_quantised_weight_is_refused_by_module_and_the_others_put_back(model, adapter, bits, dtype):
    weights = dict(model.state_dict())
    weights["conv3.weight"] = torch.ones(4, 4, 3, 1, 2).to(dtype)
    adapter.path = "file.safetensors"
    before = bits(weights)
    with pytest.raises(LoKrValueError) as error:
        merge_adapter(weights, adapter)
    for said in ("file: file.safetensors", "module: conv3", str(dtype).removeprefix("torch."), "what to do: "):
        assert said in str(error.value)
    assert bits(weights) == before


def test_a_weight_that_is_not_loaded_is_refused(model, adapter, bits):
    model.conv3.to("meta")
    before = bits({"linear.weight": model.linear.weight})
    with pytest.raises(LoKrValueError, match="meta") as error:
        merge_adapter(model, adapter)
    assert error.value.module == "conv3"
    assert bits({"linear.weight": model.linear.weight}) == before
