"""50 steps with PEFT's and LyCORIS' own layers sped up are those of the plain layers, dropout included."""

from __future__ import annotations

import pytest

from lokr_core import speed_up
from tests.peers.peer_nets import MODELS, assert_same_training, base, with_lycoris, with_peft

PEFT = {
    "plain": {},
    "both, effective": dict(r=2, decompose_both=True, use_effective_conv2d=True),
    "whole": dict(r=64),
    "dropout": dict(rank_dropout=0.3, module_dropout=0.2),
    "rescaled dropout": dict(rank_dropout=0.3, rank_dropout_scale=True),
}
LYCORIS = {
    "plain": {},
    "both, tucker, scalar": dict(decompose_both=True, use_tucker=True, conv_dim=2, use_scalar=True),
    "full matrix": dict(full_matrix=True, factor=4),
    "dropout": dict(rank_dropout=0.3, module_dropout=0.2),
    "rescaled dropout": dict(rank_dropout=0.3, rank_dropout_scale=True, multiplier=0.7),
    "bypass": dict(bypass_mode=True),
    "bypass, dropout": dict(bypass_mode=True, dropout=0.2, module_dropout=0.2, rank_dropout=0.3),
    "dora": dict(dora_wd=True, multiplier=0.7),
    "dora on the input, dropout": dict(dora_wd=True, wd_on_output=False, rank_dropout=0.2),
}


@pytest.mark.every_value
@pytest.mark.parametrize("form", PEFT)
@pytest.mark.parametrize("name", MODELS)
def test_pefts_training_is_the_same(name, form):
    def make():
        model, x = base(name)
        return with_peft(model, **PEFT[form]), x

    reports = []
    assert_same_training(make, lambda trained: reports.append(speed_up(trained.holder).report))
    assert not reports[0].left and len(reports[0].sped_up) >= 3


@pytest.mark.every_value
@pytest.mark.parametrize("form", LYCORIS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("given", ["the network", "the model"])
def test_lycoris_training_is_the_same(name, form, given):
    def make():
        model, x = base(name)
        return with_lycoris(model, **LYCORIS[form]), x

    reports = []

    def place(trained):
        reports.append(speed_up(trained.holder if given == "the network" else trained.call).report)

    assert_same_training(make, place)
    assert not reports[0].left and len(reports[0].sped_up) >= 3
