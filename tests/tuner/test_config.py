"""``LoKrConfig``: PEFT's fields and defaults, files both ways, and values that no adapter can have."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from lokr_core import LoKrConfig, LoKrFileError, LoKrValueError

FIELDS = dict(
    r=4,
    alpha=16,
    rank_dropout=0.1,
    module_dropout=0.2,
    use_effective_conv2d=True,
    decompose_both=True,
    decompose_factor=8,
    rank_dropout_scale=True,
    target_modules=["to_v", "to_q"],
    exclude_modules="head",
    init_weights="lycoris",
    layers_to_transform=[1, 2],
    layers_pattern=["layers"],
    rank_pattern={"to_v": 2, "to_q": 1},
    alpha_pattern={"to_v": 1},
    modules_to_save=["head"],
)


def test_fields_and_defaults_are_pefts():
    peft = pytest.importorskip("peft", reason="NO PEFT HERE")
    theirs = {f.name for f in dataclasses.fields(peft.LoKrConfig)} - {"peft_type"}
    ours = {f.name for f in dataclasses.fields(LoKrConfig)}
    assert theirs <= ours
    for name in theirs:
        assert getattr(LoKrConfig(), name) == getattr(peft.LoKrConfig(peft_version=""), name) or name == "peft_version"


def test_every_field_is_documented():
    for field in dataclasses.fields(LoKrConfig):
        assert f"\n    {field.name}" in LoKrConfig.__doc__ or field.name in LoKrConfig.__doc__.split("task_type")[1]


def test_peft_reads_our_file_and_we_read_pefts(tmp_path):
    peft = pytest.importorskip("peft", reason="NO PEFT HERE")
    LoKrConfig(**FIELDS).save_pretrained(tmp_path)
    theirs = peft.LoKrConfig.from_pretrained(tmp_path)
    expected = peft.LoKrConfig(**FIELDS)
    for name in FIELDS:
        assert getattr(theirs, name) in (
            getattr(expected, name),
            sorted(FIELDS.get(name)) if name == "target_modules" else 0,
        )
    expected.save_pretrained(tmp_path)
    ours = LoKrConfig.from_pretrained(tmp_path)
    assert all(getattr(ours, name) == getattr(LoKrConfig(**FIELDS), name) for name in FIELDS)


@pytest.mark.parametrize(
    "own", [dict(rs_lora=True), dict(dora="in", order="lycoris"), dict(full_matrix=True, bias="all")]
)
def test_our_own_fields_come_back(own, tmp_path):
    config = LoKrConfig(**FIELDS, **own)
    config.save_pretrained(tmp_path, {"a.to_q": (7, 0.5), "b.to_q": (7, 0.5), "c.to_v": (3, 2.0)})
    for_peft = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (for_peft["r"], for_peft["alpha"]) == (7, 3.5)
    assert (for_peft["rank_pattern"], for_peft["alpha_pattern"]) == ({r"c\.to_v": 3}, {r"c\.to_v": 6.0})
    again = LoKrConfig.from_pretrained(tmp_path)
    assert dataclasses.asdict(again) == dataclasses.asdict(config)


def test_patterns_keep_their_order(tmp_path):
    LoKrConfig(**FIELDS).save_pretrained(tmp_path)
    assert list(LoKrConfig.from_pretrained(tmp_path).rank_pattern) == ["to_v", "to_q"]


def test_fields_of_a_newer_peft_are_left_out_with_a_warning(tmp_path):
    LoKrConfig(**FIELDS).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "use_warp_drive": True}))
    with pytest.warns(UserWarning, match="use_warp_drive"):
        assert LoKrConfig.from_pretrained(tmp_path).r == 4


def test_pefts_documented_example_writes_alpha_as_lora_alpha():
    assert LoKrConfig(r=8, lora_alpha=32, target_modules=["k_proj"]).scaling() == 4


def test_scaling():
    assert LoKrConfig(r=4, alpha=8).scaling() == 2
    assert LoKrConfig(r=4, alpha=8).scaling(r=8, alpha=4) == 0.5
    assert LoKrConfig(r=4, alpha=8, rs_lora=True).scaling() == 4


@pytest.mark.parametrize(
    "fields",
    [
        dict(r=0),
        dict(r=-1),
        dict(r=1.5),
        dict(r=True),
        dict(alpha=math.nan),
        dict(alpha="8"),
        dict(rank_dropout=1.0),
        dict(module_dropout=-0.1),
        dict(decompose_factor=0),
        dict(decompose_factor=-2),
        dict(decompose_factor=2.5),
        dict(init_weights="gaussian"),
        dict(bias="some"),
        dict(dora="both"),
        dict(order="kohya"),
        dict(rank_pattern={"to_q": 0}),
        dict(alpha_pattern={"to_q": math.inf}),
        dict(layers_pattern="layers"),
        dict(peft_type="LORA"),
    ],
    ids=str,
)
def test_impossible_values_are_refused(fields):
    with pytest.raises(LoKrValueError):
        LoKrConfig(**fields)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"peft_type": "LOHA"}'])
def test_files_that_are_no_configuration_are_refused(text, tmp_path):
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(LoKrFileError, match="adapter"):
        LoKrConfig.from_pretrained(tmp_path)
