"""A layer with an adapter attached gives what LyCORIS' own forward gives, and what merging gives."""

from __future__ import annotations

import copy

import pytest
import torch

from lokr_core import attach, load_adapter, merge_adapter
from lokr_core.live import FACTORED, THROUGH, forced
from tests.lycoris_cases import cases, make
from tests.norms import relative

STRENGTHS = (-1, 0.3, 1, 2)


@pytest.mark.parametrize("way", [FACTORED, THROUGH])
@pytest.mark.parametrize("layer,channels,arguments,form,dora", list(cases()))
def test_live_layer_equals_lycoris_forward_and_the_merged_layer(layer, channels, arguments, form, dora, way, tmp_path):
    torch.manual_seed(0)
    model, x, base, expected = make(layer, channels, arguments, tmp_path / "a.safetensors")
    adapter = load_adapter(tmp_path / "a.safetensors")
    assert relative(base, expected) > 1e-2, "the adapter must change something for this test to mean anything"
    before = copy.deepcopy(model.state_dict())
    for strength in STRENGTHS:
        with attach(model, adapter, strength) as handle:
            assert handle.report.complete
            live = model(x)
            with torch.no_grad(), forced(way):  # by other steps than under autograd
                assert relative(model(x), base + strength * (expected - base)) <= 1e-6
                assert {layer.way for layer in handle.plan()} == {way}
        assert relative(live, base + strength * (expected - base)) <= 1e-6
        with merge_adapter(model, adapter, strength):
            assert relative(live, model(x)) <= 1e-10
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    model.float()
    for strength in STRENGTHS:
        with attach(model, adapter, strength), torch.no_grad(), forced(way):
            assert relative(model(x.float()), base + strength * (expected - base)) <= 1e-5


@pytest.mark.parametrize("layer,channels,arguments,form,dora", list(cases()))
def test_gradients_agree_with_autograd_through_the_merged_weight(layer, channels, arguments, form, dora, tmp_path):
    torch.manual_seed(0)
    model, x, _, _ = make(layer, channels, arguments, tmp_path / "a.safetensors")
    adapter = load_adapter(tmp_path / "a.safetensors")
    x.requires_grad_()

    def gradients():
        y = model(x)
        return torch.autograd.grad(y, [x, model.layer.bias], torch.linspace(-1, 1, y.numel()).double().view_as(y))

    with attach(model, adapter, 0.7):
        live = gradients()
    with merge_adapter(model, adapter, 0.7):
        merged = gradients()
    for found, expected in zip(live, merged, strict=True):
        assert relative(found, expected) <= 1e-10
