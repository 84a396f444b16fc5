"""``LoKrModel`` saved and loaded: here, by PEFT, and the other way round."""

from __future__ import annotations

import json
import re
import warnings

import pytest
import torch
from torch import nn

from lokr_core import LoKrConfig, LoKrFileError, LoKrMatchError, LoKrModel, LoKrValueError, get_lokr_model
from tests.tuner.small_net import SELECTIONS, Block, X, net, state_of

peft = pytest.importorskip("peft", reason="NO PEFT HERE: nothing is compared with it")


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


def test_every_bias_and_a_module_that_is_trained_whole_are_saved_and_loaded(tmp_path):
    ours = get_lokr_model(net(), LoKrConfig(r=2, target_modules=["to_q"], bias="all", modules_to_save=["head"]))
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(parameter.requires_grad * 0.1)
    ours.save_pretrained(tmp_path)
    assert torch.equal(LoKrModel.from_pretrained(net(), tmp_path)(X), ours(X))


def test_biases_of_the_adapters_own_layers_are_trained_and_loaded_beside_another_adapter(tmp_path):
    get_lokr_model(net(), LoKrConfig(r=2, target_modules=["to_q"], bias="lokr_only")).save_pretrained(tmp_path)
    model = LoKrModel(net(), LoKrConfig(r=2, target_modules=["to_q", "to_v"]), "first")
    model.load_adapter(tmp_path, "second", is_trainable=True)
    model.set_adapter("second")
    trained = {n for n, p in model.model.named_parameters() if p.requires_grad and n.endswith("bias")}
    assert trained == {f"layers.{i}.to_q.base_layer.bias" for i in range(3)}


def test_an_adapter_that_does_not_fit_leaves_a_model_with_another_one_unchanged(tmp_path):
    LoKrModel(net(), LoKrConfig(r=2, target_modules=["to_q", "to_v"], modules_to_save=["head"])).save_pretrained(
        tmp_path
    )
    model = LoKrModel(net(), LoKrConfig(r=2, target_modules=["to_q"]), "first")
    model.model.layers[1].to_v = nn.Linear(16, 12)
    before = state_of(model)
    with pytest.raises(LoKrMatchError, match="of another shape"):
        model.load_adapter(tmp_path, "second", is_trainable=True)
    assert state_of(model) == before and list(model.peft_config) == ["first"]


def test_several_adapters_are_saved_in_folders_of_their_names(tmp_path):
    model = LoKrModel(net(), LoKrConfig(r=2, init_weights=False, target_modules=["to_q"]))
    model.add_adapter("b", LoKrConfig(r=1, init_weights=False, target_modules=["to_v"]))
    model.save_pretrained(tmp_path)
    again = LoKrModel.from_pretrained(net(), tmp_path)
    again.load_adapter(tmp_path / "b", "b", is_trainable=True)
    for names in ("default", "b", ["default", "b"]):
        model.set_adapter(names), again.set_adapter(names)
        assert torch.allclose(model(X), again(X), rtol=1e-12)


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


def test_a_state_dict_key_is_a_modules_name_its_kind_and_its_adapter():
    model = LoKrModel(net(), LoKrConfig(r=2, target_modules=["to_q"]))
    keys = [key for key in model.state_dict() if "lokr" in key]
    assert keys and all(re.fullmatch(r"model\.layers\.\d\.to_q\.lokr_w[12](_[ab])?\.default", key) for key in keys)
    saved = model.adapter_state_dict()
    assert all(re.fullmatch(r"base_model\.model\.layers\.\d\.to_q\.lokr_w[12](_[ab])?", key) for key in saved)
