"""A frozen Linear trained through W + dW in scratch memory: the same function as beside W, used where it is cheaper."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from lokr_core import LoKrConfig
from lokr_core.kronecker import CPU, GPU, _autograd, goes_through, linear_plan, linear_plus_kron
from lokr_core.tuner import Linear

BESIDE, THROUGH = "_LinearPlusChainBackward", "_LinearThroughBackward"
FORMS = {
    "whole": dict(r=1000, decompose_factor=4),
    "low-rank": dict(r=16, decompose_factor=4),
    "both": dict(r=3, decompose_both=True),
}


def layer_of(form: dict, dtype: torch.dtype = torch.float32, size: tuple[int, int] = (256, 192)) -> Linear:
    torch.manual_seed(0)
    base = nn.Linear(*size).requires_grad_(False)
    fields = {name: value for name, value in form.items() if name != "r"}
    return Linear(base, "default", LoKrConfig(init_weights=False, **fields), r=form["r"], alpha=form["r"]).to(dtype)


def run(layer: Linear, x: torch.Tensor) -> dict[str, torch.Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    y.backward(torch.linspace(0, 9, y.numel(), dtype=x.dtype).sin().view_as(y))
    factors = {name: p for name, p in layer.named_parameters() if p.requires_grad}
    found = {"way": type(y.grad_fn).__name__, "y": y.detach(), "x": x.grad} | {n: p.grad for n, p in factors.items()}
    for parameter in factors.values():
        parameter.grad = None
    return found


def both_ways(layer: Linear, x: torch.Tensor, monkeypatch) -> tuple[dict, dict]:
    """What ``run`` gives beside W and through W + dW."""
    found = []
    for way, pays in ((BESIDE, False), (THROUGH, True)):
        monkeypatch.setattr(_autograd, "_through_pays", lambda *_, pays=pays: pays)
        found.append(run(layer, x))
        assert found[-1].pop("way").startswith(way)
    return found[0], found[1]


@pytest.mark.parametrize("form", FORMS)
def test_output_and_gradients_are_those_beside_the_weight(form, monkeypatch):
    layer = layer_of(FORMS[form], torch.float64)
    weight = layer.weight.clone()
    beside, through = both_ways(layer, torch.randn(3, 5, 256, dtype=torch.float64), monkeypatch)
    for name, value in beside.items():
        assert torch.allclose(through[name], value, rtol=1e-10, atol=1e-10), name
    assert torch.equal(layer.weight, weight)


def test_many_positions_go_through_the_weight_and_few_beside_it():
    layer = layer_of(FORMS["whole"])
    assert run(layer, torch.randn(2048, 256))["way"].startswith(THROUGH)
    assert run(layer, torch.randn(4, 256))["way"].startswith(BESIDE)
    layer.rank_dropout["default"] = 0.5
    assert run(layer, torch.randn(2048, 256))["way"].startswith(BESIDE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_never_goes_through_the_weight(dtype):
    layer = layer_of(FORMS["whole"], dtype)
    assert run(layer, torch.randn(2048, 256).to(dtype))["way"].startswith(BESIDE)


def test_the_first_updates_of_half_a_precision_would_be_lost_in_the_weight():
    weight = torch.ones(4, 4, dtype=torch.bfloat16)
    plan, step = linear_plan([(2, 2)], [(2, 2)]), torch.full((2, 2), 0.03, dtype=torch.bfloat16)
    x = torch.eye(4, dtype=torch.bfloat16).repeat(4096, 1)
    found = linear_plus_kron(x, weight * 0, None, plan, [step, step], 1.0)
    assert torch.equal(weight + 0.03 * 0.03, weight) and float(found.float().abs().min()) > 0


@pytest.mark.parametrize("form", ["whole", "low-rank"])
def test_50_steps_from_zero_are_no_further_from_exact_than_beside_the_weight(form, monkeypatch):
    losses = {}
    for way, pays, dtype in (("exact", False, torch.float64), ("beside", False, None), ("through", True, None)):
        monkeypatch.setattr(_autograd, "_through_pays", lambda *_, pays=pays: pays)
        layer = layer_of(FORMS[form])
        nn.init.zeros_(layer.lokr_w1["default"])
        layer = layer.to(dtype or torch.float32)
        optimizer = torch.optim.SGD([p for p in layer.parameters() if p.requires_grad], lr=1e-3)
        torch.manual_seed(1)
        x, target = (torch.randn(64, n).to(layer.weight.dtype) for n in (256, 192))
        losses[way] = []
        for _ in range(50):
            loss = (layer(x.requires_grad_()) - target).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses[way].append(loss.double().item())
    exact, beside, through = (torch.tensor(losses[way]) for way in ("exact", "beside", "through"))
    assert exact[-1] < exact[0]
    assert float((through - exact).abs().max()) <= 2 * float((beside - exact).abs().max()) + 1e-6 * float(exact[0])


def test_a_second_derivative_is_exact(monkeypatch):
    monkeypatch.setattr(_autograd, "_through_pays", lambda *_: True)
    layer = layer_of(dict(r=2, decompose_both=True), torch.float64, (6, 4))
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    assert type(layer(x).grad_fn).__name__ in (THROUGH, "ViewBackward0")
    assert torch.autograd.gradgradcheck(layer, x)


def test_it_keeps_the_input_and_the_factors_alone(monkeypatch):
    monkeypatch.setattr(_autograd, "_through_pays", lambda *_: True)
    layer, x = layer_of(FORMS["whole"]), torch.randn(64, 256, requires_grad=True)
    kept: dict[int, int] = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x)
    factors = sum(p.numel() for p in layer.parameters() if p.requires_grad)
    assert y is not None and sum(kept.values()) == x.numel() + factors + layer.weight.numel()


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 64), st.integers(1, 64), st.integers(0, 14))
@settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_the_estimate_turns_at_most_once_as_the_positions_grow(l, k, m, n, doublings):
    first, second = ((l, m),), ((k, n),)
    plan = linear_plan(first, second)
    for rates in (CPU, GPU):
        ways = [goes_through(plan, first, second, 2**at, 4, rates) for at in range(doublings + 1)]
        assert ways == sorted(ways)
