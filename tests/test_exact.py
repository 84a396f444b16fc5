"""A layer after ``merge_adapter`` gives what LyCORIS' own forward gives: every kind of layer, factor and DoRA."""

from __future__ import annotations

import pytest
import torch

from lokr_core import load_adapter, merge_adapter
from tests.lycoris_cases import cases, make
from tests.norms import relative


@pytest.mark.parametrize("layer,channels,arguments,form,dora", list(cases()))
def test_merged_layer_equals_lycoris_forward(layer, channels, arguments, form, dora, tmp_path):
    torch.manual_seed(0)
    model, x, base, expected = make(layer, channels, arguments, tmp_path / "a.safetensors")
    adapter = load_adapter(tmp_path / "a.safetensors")
    (weights,) = adapter.values()
    assert ("whole" if weights.w1.rank is None else "low-rank") == form[0]
    assert ("tucker" if weights.is_tucker else "whole" if weights.w2.rank is None else "low-rank") == form[1]
    assert (weights.dora_axis or "none") == dora
    assert relative(base, expected) > 1e-2, "the adapter must change something for this test to mean anything"

    before = model.layer.weight.clone()
    for strength in (1.0, 0.3, -1.0):
        with merge_adapter(model, adapter, strength):
            assert relative(model(x), base + strength * (expected - base)) <= 1e-6
        assert torch.equal(model.layer.weight, before)

    model.float()
    with merge_adapter(model, adapter):
        assert relative(model(x.float()), expected) <= 1e-5
