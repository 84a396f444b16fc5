"""Layers with the attributes of kohya's and ai-toolkit's train as their own forwards do; others are left alone."""

from __future__ import annotations

import pytest
import torch

from lokr_core import speed_up
from tests.peers import lookalikes
from tests.peers.peer_nets import MODELS, Trained, assert_same_training, base

FORMS = {
    "plain": {},
    "whole": dict(rank=64),
    "factor": dict(factor=4, alpha=1),
    "rank dropout": dict(rank_dropout=0.3),
    "both dropouts": dict(rank_dropout=0.2, module_dropout=0.3),
}


def trained(name: str, make) -> tuple[Trained, torch.Tensor]:
    model, x = base(name)
    torch.manual_seed(1)
    layers = lookalikes.network(model, make)
    return Trained(model, layers, list(layers.parameters())), x


@pytest.mark.every_value
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MODELS)
def test_kohyas_training_is_the_same(name, form):
    reports = []

    def make():
        return trained(name, lambda layer: lookalikes.Kohya(layer, **FORMS[form]))

    assert_same_training(make, lambda sped: reports.append(speed_up(sped.holder).report))
    assert not reports[0].left


# Its rank dropout is for Linears alone.
@pytest.mark.parametrize(
    "name, form", [*((name, "plain") for name in MODELS), ("mlp", "whole"), ("mlp", "rank dropout")]
)
def test_ai_toolkits_training_is_the_same(name, form):
    network, reports = lookalikes.switches(), []

    def make():
        return trained(name, lambda layer: lookalikes.Toolkit(layer, network, **FORMS[form]))

    assert_same_training(make, lambda sped: reports.append(speed_up(sped.call).report))
    assert not reports[0].left


def test_the_switches_of_ai_toolkits_network_act():
    network = lookalikes.switches()
    sped, x = trained("mlp", lambda layer: lookalikes.Toolkit(layer, network))
    plain = base("mlp")[0](x)
    sped.holder[0].randomize()
    speed_up(sped.holder)
    assert not torch.allclose(sped.call(x), plain)
    for switch in (dict(is_active=False), dict(is_merged_in=True), dict(_multiplier=0)):
        before = dict(vars(network))
        vars(network).update(switch)
        assert torch.equal(sped.call(x), plain)
        vars(network).update(before)


def test_a_multiplier_is_read_in_each_call():
    sped, x = trained("mlp", lookalikes.Kohya)
    plain = base("mlp")[0](x)
    for layer in sped.holder:
        layer.randomize()
        layer.multiplier = 0
    assert not speed_up(sped.holder).report.left
    assert torch.allclose(sped.call(x), plain)
    for layer in sped.holder:
        layer.multiplier = -0.3
    found = sped.call(x)
    expected, x = trained("mlp", lookalikes.Kohya)
    expected.holder.load_state_dict(sped.holder.state_dict())
    for layer in expected.holder:
        layer.multiplier = -0.3
    assert torch.allclose(found, expected.call(x), atol=1e-5)


def test_a_layer_of_the_same_attributes_that_computes_something_else_is_left_and_told():
    sped, x = trained("mlp", lambda layer: (lookalikes.Unknown if layer.in_features == 48 else lookalikes.Kohya)(layer))
    for layer in sped.holder:
        layer.randomize()
    before, state = sped.call(x), torch.random.get_rng_state()
    report = speed_up(sped.holder).report
    assert torch.equal(torch.random.get_rng_state(), state)
    assert report.sped_up == ("1", "2") and list(report.left) == ["0"]
    assert str(report) == "2 LoKr layers sped up; 1 left as they were: its own forward computes something else"
    assert torch.allclose(sped.call(x), before, atol=1e-5)
