"""``LoKrModel``: which layers, which adapters, merging; PEFT's own model is the expected value."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lokr_core import LoKrConfig, LoKrLayer, LoKrMatchError, LoKrModel, LoKrValueError, get_lokr_model
from lokr_core.tuner._defaults import TARGETS_BY_MODEL_TYPE
from tests.tuner.small_net import SELECTIONS, Net, X, net, state_of

peft = pytest.importorskip("peft", reason="NO PEFT HERE: nothing is compared with it")


def adapted(model: nn.Module) -> set[str]:
    kinds = (LoKrLayer, peft.tuners.lokr.LoKrLayer)
    return {name for name, module in model.named_modules() if isinstance(module, kinds)}


@pytest.mark.parametrize("name", SELECTIONS)
def test_the_same_layers_are_adapted_and_the_same_parameters_trained(name):
    fields = dict(r=2, alpha=4, init_weights=False, **SELECTIONS[name])
    theirs = peft.get_peft_model(net(), peft.LoKrConfig(**fields))
    ours = get_lokr_model(net(), LoKrConfig(**fields))
    assert adapted(ours.model) == adapted(theirs.base_model.model)
    assert sorted(ours.targeted_module_names) == sorted(theirs.targeted_module_names)
    assert ours.get_nb_trainable_parameters() == theirs.get_nb_trainable_parameters()
    trained = {n for n, p in ours.named_parameters() if p.requires_grad}
    assert trained == {n.removeprefix("base_model.") for n, p in theirs.named_parameters() if p.requires_grad}
    ours.load_state_dict({key.removeprefix("base_model."): t for key, t in theirs.state_dict().items()})
    assert torch.allclose(ours(X), theirs(X), rtol=1e-9)


def test_a_default_for_a_models_architecture_is_pefts():
    theirs = peft.utils.TRANSFORMERS_MODELS_TO_LOKR_TARGET_MODULES_MAPPING
    assert {kind: set(theirs[kind]) for kind in TARGETS_BY_MODEL_TYPE} == TARGETS_BY_MODEL_TYPE


def test_adapters_come_go_and_change():
    base = net()
    plain = base(X)
    model = LoKrModel(base, LoKrConfig(r=2, init_weights=False, target_modules=["to_q"]))
    first = model(X)
    config = LoKrConfig(r=1, init_weights=False, target_modules=["to_v", "to_q"], modules_to_save=["head"])
    model.add_adapter("b", config)
    assert model.active_adapter == "default" and torch.equal(model(X), first)
    model.set_adapter("b")
    second = model(X)
    assert not torch.allclose(second, first)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained and all(".b" in name for name in trained)
    model.set_adapter(["default", "b"])
    assert model.active_adapters == ["default", "b"]
    with model.disable_adapter():
        assert torch.equal(model(X), plain)
        assert not any(p.requires_grad for p in model.parameters())
    assert {n for n, p in model.named_parameters() if p.requires_grad} > trained
    with pytest.warns(UserWarning, match="active"):
        model.set_adapter("b")
        model.delete_adapter("b")
    assert model.active_adapter == "default" and torch.equal(model(X), first)
    with pytest.raises(LoKrValueError, match="no adapter 'b'"):
        model.set_adapter("b")
    assert torch.equal(model.unload()(X), plain)
    assert adapted(base) == set()


def test_layers_that_were_switched_off_are_used_and_trained_again():
    base = net()
    plain = base(X)
    model = LoKrModel(base, LoKrConfig(r=2, init_weights=False, target_modules=["to_q"], modules_to_save=["head"]))
    theirs = peft.LoKrModel(net(), peft.LoKrConfig(r=2, target_modules=["to_q"], init_weights=False), "default")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    live = model(X)
    for each in (model, theirs):
        each.disable_adapter_layers()
        assert torch.equal(each(X), plain) and not any(p.requires_grad for p in each.parameters())
        each.enable_adapter_layers()
    assert torch.equal(model(X), live)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trained


def test_merging_is_undone_bit_for_bit():
    model = LoKrModel(net(), LoKrConfig(r=2, init_weights=False, target_modules=["to_q", "conv"]))
    before, live = {k: t.clone() for k, t in model.state_dict().items()}, model(X)
    model.merge_adapter(safe_merge=True)
    assert torch.allclose(model(X), live, rtol=1e-9)
    with pytest.warns(UserWarning, match="Already merged"):
        model.merge_adapter()
    with pytest.raises(LoKrValueError, match="is merged"):
        model.delete_adapter("default")
    model.unmerge_adapter()
    assert all(torch.equal(t, before[k]) for k, t in model.state_dict().items())
    with pytest.warns(UserWarning, match="Nothing is merged"):
        model.unmerge_adapter()


@pytest.mark.parametrize("safe", [False, True])
def test_merge_and_unload_gives_a_plain_model(safe):
    model = LoKrModel(net(), LoKrConfig(r=2, init_weights=False, target_modules=["to_q"], modules_to_save=["head"]))
    live = model(X)
    merged = model.merge_and_unload(progress=True, safe_merge=safe)
    assert type(merged) is Net and merged.state_dict().keys() == net().state_dict().keys()
    assert torch.allclose(merged(X), live, rtol=1e-9)


def test_a_safe_merge_of_a_broken_adapter_changes_nothing():
    model = LoKrModel(net(), LoKrConfig(r=2, init_weights=False, target_modules=["to_q"]))
    before = {k: t.clone() for k, t in model.state_dict().items()}
    with torch.no_grad():
        model.model.layers[2].to_q.lokr_w1["default"][0, 0] = float("nan")
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(LoKrValueError, match="NaN or Inf"):
            merge(safe_merge=True)
        assert len(adapted(model.model)) == 3
        weights = {k: t for k, t in model.state_dict().items() if "lokr" not in k}
        assert all(torch.equal(t, before[k]) for k, t in weights.items())


BAD = {
    "nothing matches": (dict(target_modules=["to_g"]), LoKrMatchError, "near: to_q|to_v"),
    "a part of a name": (dict(target_modules=["o_q"]), LoKrMatchError, "no module"),
    "an unsupported kind": (dict(target_modules=["to_q", "norm"]), TypeError, "'norm', a LayerNorm"),
    "no regex": (dict(target_modules="(to_q"), LoKrValueError, "not a regular expression"),
    "no default": (dict(), LoKrValueError, "target_modules has to be given"),
    "all excluded": (dict(target_modules=["to_q"], exclude_modules=["to_q"]), LoKrMatchError, "excluded"),
    "no such layer": (dict(target_modules=["to_q"], layers_to_transform=[7]), LoKrMatchError, "layers_to_transform"),
    "nothing to save": (dict(target_modules=["to_q"], modules_to_save=["heed"]), LoKrValueError, "heed"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_adapted_is_told_and_the_model_is_unchanged(name):
    fields, error, text = BAD[name]
    base = net()
    before = state_of(base)
    with pytest.raises(error, match=text):
        get_lokr_model(base, LoKrConfig(**fields))
    assert state_of(base) == before and all(p.requires_grad for p in base.parameters())


def test_a_name_twice_and_a_name_with_a_dot_are_refused():
    model = LoKrModel(net(), LoKrConfig(r=2, target_modules=["to_q"]))
    before = state_of(model)
    for name in ("default", "a.b", ""):
        with pytest.raises(LoKrValueError):
            model.add_adapter(name, LoKrConfig(r=2, target_modules=["to_v"]))
    with pytest.raises(LoKrValueError, match="already"):
        LoKrModel(model.model, LoKrConfig(r=2, target_modules=["to_q"]))
    assert state_of(model) == before


def test_alpha_zero_is_warned_of():
    with pytest.warns(UserWarning, match="alpha is 0"):
        LoKrModel(net(), LoKrConfig(alpha=0, target_modules=["to_q"]))


def test_unused_patterns_and_exclusions_are_warned_of():
    config = LoKrConfig(target_modules=["to_q"], rank_pattern={"to_x": 2}, exclude_modules=["to_y"])
    with pytest.warns(UserWarning) as seen:
        LoKrModel(net(), config)
    text = " ".join(str(each.message) for each in seen)
    assert "to_x" in text and "to_y" in text


def test_the_summary_is_pefts(capsys):
    fields = dict(r=2, target_modules=["to_q"])
    peft.get_peft_model(net(), peft.LoKrConfig(**fields)).print_trainable_parameters()
    expected = capsys.readouterr().out
    get_lokr_model(net(), LoKrConfig(**fields)).print_trainable_parameters()
    assert capsys.readouterr().out == expected


def test_training_follows_pefts_loss_curve():
    fields = dict(r=4, alpha=8, target_modules=["to_q", "to_v", "conv"], use_effective_conv2d=True)
    theirs = peft.get_peft_model(net(), peft.LoKrConfig(**fields))
    ours = get_lokr_model(net(), LoKrConfig(**fields))
    ours.load_state_dict({key.removeprefix("base_model."): t for key, t in theirs.state_dict().items()})
    curves = []
    for model in (theirs, ours):
        generator = torch.Generator().manual_seed(2)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
        losses = []
        for _ in range(200):
            x = torch.randn(4, 5, 16, dtype=torch.float64, generator=generator)
            loss = (model(x) - x[..., :4].roll(1, -1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
        curves.append(losses)
    theirs, ours = curves
    assert ours[-1] < 0.8 * ours[0]
    assert max(abs(a / b - 1) for a, b in zip(ours, theirs, strict=True)) < 1e-4
