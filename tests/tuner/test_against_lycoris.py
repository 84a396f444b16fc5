"""What PEFT has not is LyCORIS': DoRA, full matrix, rank stabilisation, its order of factors, Conv3d."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lokr_core.peft import LoKrConfig
from lokr_core.tuner import Conv1d, Conv2d, Conv3d, Linear, LoKrLayer

lokr = pytest.importorskip("lycoris.modules.lokr", reason="NO LYCORIS HERE: nothing is compared with it")

KINDS = {nn.Linear: Linear, nn.Conv1d: Conv1d, nn.Conv2d: Conv2d, nn.Conv3d: Conv3d}
LAYERS = {
    "linear": (lambda: nn.Linear(24, 36), (2, 5, 24)),
    "conv1d": (lambda: nn.Conv1d(24, 36, 3, padding=1), (2, 24, 7)),
    "conv2d": (lambda: nn.Conv2d(24, 36, 3, padding=1, stride=2), (2, 24, 7, 9)),
    "conv2d 1x1": (lambda: nn.Conv2d(24, 36, 1), (2, 24, 7, 9)),
    "conv2d groups": (lambda: nn.Conv2d(24, 36, 3, groups=2), (2, 24, 7, 9)),
    "conv3d": (lambda: nn.Conv3d(24, 36, (3, 1, 2)), (2, 24, 4, 3, 5)),
}


def twins(base: nn.Module, r: int, alpha: float = 3.0, **fields) -> tuple[nn.Module, LoKrLayer]:
    """(LyCORIS' module, our layer) for copies of ``base`` with the same random parameters."""
    theirs = lokr.LokrModule(
        "name",
        copy.deepcopy(base),
        lora_dim=r,
        alpha=alpha,
        use_tucker=fields.get("use_effective_conv", False),
        decompose_both=fields.get("decompose_both", False),
        factor=fields.get("decompose_factor", -1),
        rank_dropout=fields.get("rank_dropout", 0.0),
        rank_dropout_scale=fields.get("rank_dropout_scale", False),
        weight_decompose=fields.get("dora") is not None,
        wd_on_out=fields.get("dora") != "in",
        full_matrix=fields.get("full_matrix", False),
        rs_lora=fields.get("rs_lora", False),
        unbalanced_factorization=fields.get("unbalanced", False),
        bypass_mode=False,
    ).double()
    if theirs.use_w1 and theirs.use_w2:
        alpha = r  # LyCORIS scales whole factors by 1 (1 / sqrt(r) * r with rank stabilisation)
    config = LoKrConfig(order="lycoris", init_weights=False, **fields)
    ours = KINDS[type(base)](copy.deepcopy(base), "default", config, r=r, alpha=alpha)
    mine = {
        name: getattr(ours, name)["default"] for name in ours.adapter_layer_names if "default" in getattr(ours, name)
    }
    trained = {name: p for name, p in theirs.named_parameters() if name in mine}
    if theirs.wd:
        trained["dora_scale"] = theirs.dora_scale
    assert {n: tuple(p.shape) for n, p in mine.items()} == {n: tuple(p.shape) for n, p in trained.items()}
    assert ours.scaling["default"] == pytest.approx(theirs.scale)
    with torch.no_grad():
        if theirs.wd:
            assert torch.allclose(mine["dora_scale"], trained["dora_scale"].double(), rtol=1e-6)
            theirs.dora_scale = nn.Parameter(
                trained["dora_scale"].double() * (1 + 0.3 * torch.rand_like(mine["dora_scale"]))
            )
            trained["dora_scale"] = theirs.dora_scale
        for name, parameter in trained.items():
            if name != "dora_scale":
                nn.init.normal_(parameter, std=0.5)
            mine[name].copy_(parameter)
    return theirs, ours


def run(module: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    x = x.clone().requires_grad_()
    y = module(x)
    y.backward(torch.linspace(0, 40, y.numel(), dtype=torch.float64).sin().view_as(y).to(y.dtype))
    names = LoKrLayer.adapter_layer_names
    found = {name.removesuffix(".default"): p.grad for name, p in module.named_parameters()}
    return {"output": y.detach(), "input": x.grad, **{name: g for name, g in found.items() if name in names}}


def assert_equal(found: dict, expected: dict, tolerance: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        error = float((found[name] - value).norm() / value.norm())
        assert error <= tolerance, f"{name}: relative error {error:.1e}"


FORMS = {
    "low-rank": dict(r=2),
    "both": dict(r=1, decompose_both=True, decompose_factor=4),
    "tucker": dict(r=2, use_effective_conv=True),
    "whole": dict(r=3, full_matrix=True),
    "stabilised": dict(r=2, rs_lora=True),
    "unbalanced": dict(r=2, unbalanced=True, decompose_factor=4),
}


@pytest.mark.every_pair
@pytest.mark.parametrize("dora", [None, "out", "in"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", LAYERS)
def test_output_gradients_and_merge_are_lycoris(name, form, dora):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    theirs, ours = twins(make().double(), dora=dora, **FORMS[form])
    x = torch.randn(shape, dtype=torch.float64)
    expected = run(theirs, x)
    assert_equal(run(ours, x), expected)

    before = ours.weight.detach().clone()
    delta = ours.get_delta_weight("default").detach()
    ours.merge()
    assert_equal({"": ours.weight.detach() - before}, {"": delta})
    assert_equal({"": ours(x).detach()}, {"": expected["output"]})
    ours.unmerge()
    assert torch.equal(ours.weight, before)


@pytest.mark.parametrize("dora", [None, "out", "in"])
def test_rank_dropout_with_the_same_draws_is_lycoris(dora):
    torch.manual_seed(0)
    theirs, ours = twins(nn.Linear(24, 36).double(), dora=dora, r=2, rank_dropout=0.4, rank_dropout_scale=True)
    theirs.train(), ours.train()
    x = torch.randn(3, 24, dtype=torch.float64)
    results = []
    for module in (theirs, ours):
        torch.manual_seed(1)
        results.append(run(module, x))
    assert_equal(results[1], results[0])


@pytest.mark.parametrize("first", [None, "out", "in"])
def test_a_second_adapters_dora_refers_to_the_base_and_not_to_the_first(first):
    torch.manual_seed(0)
    layer = Linear(nn.Linear(12, 8).double(), "a", LoKrConfig(dora=first, init_weights=False), r=2, alpha=2)
    layer.update_layer("b", 2, 2, LoKrConfig(dora="out", init_weights=False))
    layer.set_adapter(["a", "b"])
    x = torch.randn(3, 12, dtype=torch.float64)
    weight = layer.weight + layer.get_delta_weight("a") + layer.get_delta_weight("b")
    expected = nn.functional.linear(x, weight, layer.bias)
    assert torch.allclose(layer(x), expected, rtol=1e-9)
    layer.merge()
    assert torch.allclose(layer(x), expected, rtol=1e-9)
