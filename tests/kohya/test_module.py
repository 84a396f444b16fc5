"""One layer: W x + dW x in every form, and what stays the model's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from lokr_core import LoKrValueError
from lokr_core.kohya._module import LoKrModule
from lokr_core.peft import LoKrConfig

LAYERS = {
    "linear": (lambda: nn.Linear(24, 40), (3, 5, 24)),
    "no bias": (lambda: nn.Linear(24, 40, bias=False), (4, 24)),
    "conv1d": (lambda: nn.Conv1d(24, 40, 3, padding=1), (2, 24, 7)),
    "conv2d": (lambda: nn.Conv2d(24, 40, 3, stride=2, padding=1), (2, 24, 6, 5)),
    "groups": (lambda: nn.Conv2d(24, 40, 3, groups=2), (2, 24, 6, 5)),
    "conv3d": (lambda: nn.Conv3d(24, 40, (3, 1, 2)), (1, 24, 4, 3, 5)),
}


def adapted(layer: nn.Module, **fields) -> LoKrModule:
    """A module in the layer's place, with random factors."""
    config = LoKrConfig(**{"r": 2, "alpha": 3.0, "order": "lycoris", "init_weights": "lycoris", **fields})
    module = LoKrModule("lora_unet_layer", "layer", layer, config)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    layer.requires_grad_(False)
    module.apply_to()
    return module


@given(
    kind=st.sampled_from(list(LAYERS)),
    factor=st.sampled_from([-1, 4, 8]),
    both=st.booleans(),
    tucker=st.booleans(),
    whole=st.booleans(),
    dora=st.sampled_from([None, "out", "in"]),
)
def test_a_layer_computes_with_its_merged_weight(kind, factor, both, tucker, whole, dora):
    make, size = LAYERS[kind]
    torch.manual_seed(0)
    layer, x = make(), torch.randn(size)
    plain = make()
    plain.load_state_dict(layer.state_dict())
    module = adapted(
        layer, decompose_factor=factor, decompose_both=both, use_effective_conv=tucker, full_matrix=whole, dora=dora
    )
    module.weights().add_to_(plain.weight.data)
    assert torch.allclose(layer(x), plain(x), rtol=1e-4, atol=1e-4)


def test_the_layer_and_the_network_hold_their_own_parameters_alone():
    layer = nn.Linear(24, 40)
    before = set(layer.state_dict())
    module = adapted(layer)
    assert set(layer.state_dict()) == before
    assert set(module.state_dict()) == {"lokr_w1", "lokr_w2_a", "lokr_w2_b", "alpha"}
    layer(torch.randn(3, 24)).sum().backward()
    assert layer.weight.grad is None and all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize("dora", [None, "out"])
def test_a_multiplier_leads_from_the_base_to_what_was_trained(dora):
    layer, x = nn.Linear(24, 40), torch.randn(3, 24)
    base = layer(x)
    module = adapted(layer, dora=dora)
    whole = layer(x)
    module.multiplier = 0
    assert torch.equal(layer(x), base)
    module.multiplier = 0.25
    assert torch.allclose(layer(x), torch.lerp(base, whole, 0.25), rtol=1e-4, atol=1e-5)


def test_the_layer_is_called_as_another_has_changed_it():
    layer, x = nn.Linear(24, 40), torch.randn(3, 24)
    expected = layer(x) * 2
    own = layer.forward
    layer.forward = lambda x: own(x) * 2  # as a trainer's fp8 Linears, or a second network
    module = adapted(layer)
    module.multiplier = 0
    assert torch.equal(layer(x), expected)
    module.multiplier = 1
    assert torch.allclose(layer(x) - expected, x @ module.weights().delta().T, atol=1e-5)


def test_rank_dropout_drops_rows_in_training_alone():
    layer, x = nn.Linear(24, 40), torch.randn(50, 24)
    base = layer(x)
    module = adapted(layer, rank_dropout=0.5)
    dropped = (layer(x) - base).abs().amax(0) < 1e-6
    assert 5 < dropped.sum() < 35
    module.eval()
    assert not ((layer(x) - base).abs().amax(0) < 1e-6).any()


@pytest.mark.parametrize("fields, mean", [({}, 0.75), ({"rank_dropout_scale": True}, 1.0)])
def test_rows_are_rescaled_by_their_share_if_asked(fields, mean):
    module = adapted(nn.Linear(8, 4000), rank_dropout=0.25, **fields)
    assert float(module._kept_rows(torch.zeros(1)).mean()) == pytest.approx(mean, abs=0.03 if not fields else 1e-5)


def test_rows_are_rescaled_by_the_expected_share_for_musubi_tuner():
    layer, x = nn.Linear(24, 40), torch.randn(5, 24)
    base = layer(x)
    config = LoKrConfig(r=2, order="lycoris", init_weights="lycoris", rank_dropout=0.25)
    module = LoKrModule("lora_unet_layer", "layer", layer, config, expected_share=True)
    nn.init.normal_(module.lokr_w2_b)
    layer.requires_grad_(False)
    module.apply_to()
    torch.manual_seed(0)
    kept = (torch.rand(40) > 0.25).float() / 0.75
    torch.manual_seed(0)
    assert torch.allclose(layer(x) - base, (x @ module.weights().delta().T) * kept, atol=1e-5)


def test_gradients_through_checkpointing_are_those_without():
    layer, x = nn.Linear(24, 40), torch.randn(3, 24, requires_grad=True)
    module = adapted(layer)
    layer(x).square().sum().backward()
    expected = [parameter.grad for parameter in module.parameters()]
    module.zero_grad()
    checkpoint(layer, x, use_reentrant=False).square().sum().backward()
    assert all(torch.allclose(p.grad, e) for p, e in zip(module.parameters(), expected, strict=True))


def test_under_autocast_it_computes_in_half_and_trains_in_full_precision():
    layer, x = nn.Linear(24, 40).bfloat16(), torch.randn(3, 24).bfloat16()
    module = adapted(layer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in module.parameters())


def test_moved_to_another_dtype_the_same_parameters_are_trained():
    layer, x = nn.Linear(24, 40).bfloat16(), torch.randn(3, 24).bfloat16()
    module = adapted(layer).to(torch.bfloat16)  # --full_bf16
    y = layer(x)
    y.sum().backward()
    assert y.dtype == torch.bfloat16 and all(p.grad.dtype == torch.bfloat16 for p in module.parameters())


def test_dora_of_a_quantised_weight_is_refused_by_name():
    layer = nn.Linear(24, 40).requires_grad_(False)
    layer.weight.data = layer.weight.data.to(torch.float8_e4m3fn)
    with pytest.raises(LoKrValueError, match="quantised"):
        LoKrModule("lora_unet_layer", "layer", layer, LoKrConfig(order="lycoris", dora="out"))
    assert LoKrModule("lora_unet_layer", "layer", layer, LoKrConfig(order="lycoris")).lokr_w1.dtype == torch.float32
