"""``LoKrModel``: which layers, which adapters, merging, saving; PEFT's own model is the expected value."""

from __future__ import annotations

import json
import re
import warnings

import pytest
import torch
from torch import nn

from lokr_core import LoKrConfig, LoKrFileError, LoKrLayer, LoKrMatchError, LoKrModel, LoKrValueError, get_lokr_model
from lokr_core.peft import TARGETS_BY_MODEL_TYPE

peft = pytest.importorskip("peft", reason="NO PEFT HERE: nothing is compared with it")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q, self.to_v = nn.Linear(16, 16), nn.Linear(16, 16)
        self.conv = nn.Conv1d(16, 16, 3, padding=1)

    def forward(self, x):
        return x + self.conv((self.to_q(x) * self.to_v(x).sigmoid()).mT).mT


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(3))
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def net() -> Net:
    torch.manual_seed(0)
    return Net().double()


X = torch.randn(2, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def adapted(model: nn.Module) -> set[str]:
    kinds = (LoKrLayer, peft.tuners.lokr.LoKrLayer)
    return {name for name, module in model.named_modules() if isinstance(module, kinds)}


SELECTIONS = {
    "names": dict(target_modules=["to_q", "head"]),
    "whole name": dict(target_modules=["layers.1.to_q"]),
    "regex": dict(target_modules=r"layers\.\d+\.(to_q|conv)"),
    "all-linear": dict(target_modules="all-linear"),
    "exclude": dict(target_modules=["to_q", "to_v"], exclude_modules=["layers.1.to_q"]),
    "exclude regex": dict(target_modules=["to_q", "to_v"], exclude_modules=r".*\.2\..*"),
    "one layer": dict(target_modules=["to_q"], layers_to_transform=1, layers_pattern=["blocks", "layers"]),
    "layers": dict(target_modules=["to_q", "conv"], layers_to_transform=[0, 2], layers_pattern="layers"),
    "saved": dict(target_modules=["to_q"], modules_to_save=["head"]),
    "ranks": dict(
        target_modules=["to_q", "to_v"], rank_pattern={"to_q": 1, r"layers\.1\.to_v": 3}, alpha_pattern={"to_q": 9}
    ),
}


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


@pytest.mark.parametrize("name", SELECTIONS)
def test_peft_reads_what_is_saved_here_and_the_other_way_round(name, tmp_path):
    fields = dict(r=2, alpha=4, init_weights=False, **SELECTIONS[name])
    ours = LoKrModel(net(), LoKrConfig(**fields))
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter) * parameter.requires_grad)
    ours.save_pretrained(tmp_path / "ours")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theirs = peft.PeftModel.from_pretrained(net(), tmp_path / "ours")
    assert torch.allclose(theirs(X), ours(X), rtol=1e-12)
    theirs.save_pretrained(tmp_path / "theirs")
    again = LoKrModel.from_pretrained(net(), tmp_path / "theirs")
    assert torch.allclose(again(X), ours(X), rtol=1e-12)
    assert not any(p.requires_grad for p in again.parameters())
    files = [(tmp_path / who / "adapter_model.safetensors").read_bytes() for who in ("ours", "theirs")]
    assert len(files[0]) == len(files[1])


EXTENSIONS = {
    "rs_lora": dict(rs_lora=True, rank_pattern={"to_q": 1}),
    "full_matrix": dict(full_matrix=True, target_modules=["to_q", "head"]),
    "use_effective_conv": dict(use_effective_conv=True, decompose_factor=2),
}


@pytest.mark.parametrize("name", EXTENSIONS)
def test_peft_computes_the_same_from_what_it_has_no_field_for(name, tmp_path):
    fields = dict(r=2, alpha=4, init_weights=False, target_modules=["to_q", "conv"]) | EXTENSIONS[name]
    config = LoKrConfig(**fields)
    ours = LoKrModel(net(), config)
    ours.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="lokr_core"):
        theirs = peft.PeftModel.from_pretrained(net(), tmp_path)
    assert torch.allclose(theirs(X), ours(X), rtol=1e-9)
    again = LoKrModel.from_pretrained(net(), tmp_path)
    assert torch.allclose(again(X), ours(X), rtol=1e-12)
    kept = again.peft_config["default"]
    assert [getattr(kept, f) for f in fields if f != "target_modules"] == [
        getattr(config, f) for f in fields if f != "target_modules"
    ]


@pytest.mark.parametrize("fields", [dict(dora="out"), dict(dora="in"), dict(order="lycoris", unbalanced=True)])
def test_saved_and_loaded_here_it_computes_the_same(fields, tmp_path):
    ours = LoKrModel(net(), LoKrConfig(r=2, init_weights=False, target_modules=["to_q", "conv"], **fields))
    ours.save_pretrained(tmp_path)
    again = LoKrModel.from_pretrained(net(), tmp_path, is_trainable=True)
    assert torch.allclose(again(X), ours(X), rtol=1e-12)
    assert again.get_nb_trainable_parameters() == ours.get_nb_trainable_parameters()


@pytest.mark.parametrize("bias", ["all", "lokr_only"])
def test_biases_are_trained_saved_and_loaded(bias, tmp_path):
    ours = get_lokr_model(net(), LoKrConfig(r=2, target_modules=["to_q"], bias=bias))
    trained = {n for n, p in ours.model.named_parameters() if p.requires_grad and n.endswith("bias")}
    of_targets = {f"layers.{i}.to_q.base_layer.bias" for i in range(3)}
    every = {n for n, _ in ours.model.named_parameters() if n.endswith("bias")}
    assert trained == (every if bias == "all" else of_targets)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(parameter.requires_grad * 0.1)
    ours.save_pretrained(tmp_path)
    assert torch.equal(LoKrModel.from_pretrained(net(), tmp_path)(X), ours(X))
    with pytest.raises(LoKrValueError, match="Only one adapter"):
        ours.add_adapter("other", LoKrConfig(target_modules=["to_q"], bias="all"))


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


def test_several_adapters_are_saved_in_folders_of_their_names(tmp_path):
    model = LoKrModel(net(), LoKrConfig(r=2, init_weights=False, target_modules=["to_q"]))
    model.add_adapter("b", LoKrConfig(r=1, init_weights=False, target_modules=["to_v"]))
    model.save_pretrained(tmp_path)
    again = LoKrModel.from_pretrained(net(), tmp_path)
    again.load_adapter(tmp_path / "b", "b", is_trainable=True)
    for names in ("default", "b", ["default", "b"]):
        model.set_adapter(names), again.set_adapter(names)
        assert torch.allclose(model(X), again(X), rtol=1e-12)


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


def state_of(model: nn.Module) -> dict[str, object]:
    return {name: (type(module), [id(p) for p in module.parameters()]) for name, module in model.named_modules()}


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


def test_an_adapter_of_another_architecture_is_refused_and_the_model_unchanged(tmp_path):
    LoKrModel(net(), LoKrConfig(r=2, target_modules=["to_q"])).save_pretrained(tmp_path)
    other = net()
    other.layers.append(Block().double())
    narrow = net()
    narrow.layers[1].to_q = nn.Linear(16, 12)
    for model, text in ((other, "tensors are missing"), (narrow, "of another shape")):
        before = state_of(model)
        with pytest.raises(LoKrMatchError, match=text):
            LoKrModel.from_pretrained(model, tmp_path)
        assert state_of(model) == before
    with pytest.raises(LoKrMatchError, match="near|no module"):
        LoKrModel.from_pretrained(nn.Sequential(nn.Linear(4, 4)), tmp_path)


def test_folders_that_hold_no_adapter_are_told(tmp_path):
    with pytest.raises(LoKrFileError, match="no adapter configuration"):
        LoKrModel.from_pretrained(net(), tmp_path)
    LoKrConfig(target_modules=["to_q"]).save_pretrained(tmp_path)
    with pytest.raises(LoKrFileError, match="no adapter weights"):
        LoKrModel.from_pretrained(net(), tmp_path)
    peft.LoraConfig(target_modules=["to_q"]).save_pretrained(tmp_path)
    with pytest.raises(LoKrFileError, match="another method"):
        LoKrModel.from_pretrained(net(), tmp_path)


def test_of_several_patterns_the_one_of_the_files_rank_counts(tmp_path):
    fields = dict(r=2, target_modules=["to_q"], init_weights=False, rank_pattern={"to_q": 1, r"layers\.1\.to_q": 3})
    theirs = peft.get_peft_model(net(), peft.LoKrConfig(**fields))  # saved sorted: the order is lost
    theirs.save_pretrained(tmp_path)
    assert list(json.loads((tmp_path / "adapter_config.json").read_text())["rank_pattern"])[0].startswith("layers")
    assert torch.allclose(LoKrModel.from_pretrained(net(), tmp_path)(X), theirs(X), rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_adapters_of_a_half_precision_base_are_fp32_where_peft_has_them_so(dtype, tmp_path):
    fields = dict(r=2, target_modules=["to_q"])
    kinds = {get_lokr_model: torch.float32, LoKrModel: dtype}
    for make, expected in kinds.items():
        model = make(net().to(dtype), LoKrConfig(**fields))
        assert {p.dtype for n, p in model.named_parameters() if "lokr" in n} == {expected}
    model.save_pretrained(tmp_path)
    again = LoKrModel.from_pretrained(net().to(dtype), tmp_path)
    assert {p.dtype for n, p in again.named_parameters() if "lokr" in n} == {torch.float32}


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


def test_a_state_dict_key_is_a_modules_name_its_kind_and_its_adapter():
    model = LoKrModel(net(), LoKrConfig(r=2, target_modules=["to_q"]))
    keys = [key for key in model.state_dict() if "lokr" in key]
    assert keys and all(re.fullmatch(r"model\.layers\.\d\.to_q\.lokr_w[12](_[ab])?\.default", key) for key in keys)
    saved = model.adapter_state_dict()
    assert all(re.fullmatch(r"base_model\.model\.layers\.\d\.to_q\.lokr_w[12](_[ab])?", key) for key in saved)
