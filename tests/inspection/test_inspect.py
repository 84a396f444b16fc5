"""``inspect_adapter``: what a file holds, in numbers that are right, and what looks wrong in it."""

from __future__ import annotations

import json

import pytest
import torch

from lokr_core import Adapter, Factor, LoKrWeights, save_adapter
from lokr_core.adapter import Foreign, ForeignModule, ModuleName
from lokr_core.formats import load_adapter, parse_adapter
from lokr_core.inspection import inspect_adapter
from lokr_core.kronecker._nearest import factor_norm

METADATA = {
    "ss_base_model_version": "sdxl_base_v1-0",
    "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
    "modelspec.trigger_phrase": "sks cat, oil paint",
    "ss_network_module": "lycoris.kohya",
    "ss_network_dim": "16",
    "ss_network_alpha": "8",
    "ss_network_args": json.dumps({"algo": "lokr", "factor": "8", "rs_lora": None}),
    "ss_tag_frequency": json.dumps({"10_sks": {"sks cat": 20, "1girl": 3}, "5_b": {"1girl": 4}}),
}


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


@pytest.fixture
def adapter():
    tensors = {
        "lora_unet_down_blocks_0_attn_to_q.lokr_w1": draw(8, 8),
        "lora_unet_down_blocks_0_attn_to_q.lokr_w2_a": draw(40, 16),
        "lora_unet_down_blocks_0_attn_to_q.lokr_w2_b": draw(16, 80),
        "lora_unet_down_blocks_0_attn_to_q.alpha": torch.tensor(8.0),
        "lora_unet_down_blocks_0_attn_to_q.dora_scale": draw(320, 1),
        "lora_unet_down_blocks_0_resnets_0_conv1.lokr_w1": draw(8, 8),
        "lora_unet_down_blocks_0_resnets_0_conv1.lokr_w2": draw(40, 40, 3, 3),
        "lora_unet_down_blocks_1_resnets_0_conv1.lokr_w1": draw(4, 4),
        "lora_unet_down_blocks_1_resnets_0_conv1.lokr_t2": draw(4, 4, 3, 3),
        "lora_unet_down_blocks_1_resnets_0_conv1.lokr_w2_a": draw(4, 20),
        "lora_unet_down_blocks_1_resnets_0_conv1.lokr_w2_b": draw(4, 10),
        "lora_unet_down_blocks_1_resnets_0_conv1.alpha": torch.tensor(2.0),
        "lora_unet_down_blocks_2_resnets_0_conv1.lokr_w1": draw(4, 4),
        "lora_unet_down_blocks_2_resnets_0_conv1.lokr_w2_a": draw(20, 4),
        "lora_unet_down_blocks_2_resnets_0_conv1.lokr_w2_b": draw(4, 90),
        "lora_unet_mid.lora_up.weight": draw(4, 4),
        "lora_unet_mid.lora_down.weight": draw(4, 4),
    }
    return parse_adapter(tensors, METADATA)


def test_modules_are_told_by_kind_shape_and_form(adapter):
    linear, conv, tucker, flat = inspect_adapter(adapter).modules
    assert (linear.kind, linear.shape, linear.w1, linear.w2) == ("Linear", (320, 640), "8×8", "40×80 of rank 16")
    assert (linear.rank, linear.scaling, linear.alpha, linear.dora, linear.component) == (16, 0.5, 8.0, "out", "unet")
    assert (conv.kind, conv.shape, conv.rank, conv.tucker) == ("Conv2d 3×3", (320, 320, 3, 3), None, False)
    assert (tucker.w2, tucker.tucker, tucker.shape) == ("20×10×3×3 Tucker, rank 4", True, (80, 40, 3, 3))
    assert flat.kind == "Conv, kernel flattened"


def test_norms_are_those_of_the_updates_built_whole(adapter):
    for module in inspect_adapter(adapter).modules:
        delta = adapter[module.name].delta(torch.float64)
        assert module.norm == pytest.approx(float(delta.norm()), rel=1e-5)
        assert module.rms == pytest.approx(float(delta.square().mean().sqrt()), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_norm_of_a_half_precision_factor_is_taken_in_fp32(dtype):
    big = torch.full((300, 300), 200.0, dtype=dtype)  # its square leaves fp16's range
    assert factor_norm(big) == pytest.approx(60000, rel=1e-4)


def test_a_product_that_vanishes_has_the_norm_0():
    assert factor_norm(Factor(a=draw(6, 2), b=torch.zeros(2, 4))) == 0


def test_sizes_are_told_against_a_full_difference(adapter):
    found = inspect_adapter(adapter)
    assert found.full_parameters == 320 * 640 + 320 * 320 * 9 + 80 * 40 * 9 + 80 * 360
    assert found.parameters == sum(weights.numel for weights in adapter.values())
    assert (found.bytes, found.full_bytes) == (4 * found.parameters, 4 * found.full_parameters)


def test_metadata_answers_what_people_ask(adapter):
    found = inspect_adapter(adapter)
    assert found.title == "" and found.base_model["ss_base_model_version"] == "sdxl_base_v1-0"
    assert found.trained_with == {
        "module": "lycoris.kohya", "dim": "16", "alpha": "8", "algo": "lokr", "factor": "8",
    }  # fmt: skip
    assert found.trigger_words == ["sks cat", "oil paint"]
    assert found.tags == {"sks cat": 20, "1girl": 7}


def test_what_is_no_lokr_is_told(adapter):
    found = inspect_adapter(adapter)
    assert found.other_kinds == {"LoRA": 1}
    assert "1 × LoRA (not LoKr)" in found.text()


def test_the_text_says_it_all(adapter):
    text = inspect_adapter(adapter).text()
    for part in ("kohya-ss / LyCORIS", "sdxl_base_v1-0", "factor 8", "sks cat, oil paint", "Conv2d 3×3", "note:"):
        assert part in text
    assert all(len(line) < 250 for line in text.splitlines())


def test_the_dict_is_json_and_has_every_module(adapter):
    found = json.loads(json.dumps(inspect_adapter(adapter).as_dict()))
    assert len(found["modules"]) == 4 and found["modules"][0]["norm"] > 0
    assert found["kinds"]["Linear"] == 1


@pytest.mark.parametrize("text", ["", "not json", "[]", "3", '{"a": 1}', '{"a": {"b": "c"}}', "{" * 100000, "null"])
def test_odd_metadata_does_no_harm(text):
    weights = LoKrWeights(Factor(draw(2, 2)), Factor(draw(2, 2)))
    keys = ("ss_network_args", "ss_tag_frequency", "lora_adapter_metadata", "modelspec.trigger_phrase")
    found = inspect_adapter(Adapter({"a": weights}, metadata=dict.fromkeys(keys, text)))
    assert found.text() and not found.tags


def notes(modules: dict[str, LoKrWeights], **arguments) -> str:
    return "\n".join(note.text for note in inspect_adapter(Adapter(modules, **arguments)).notes)


def lokr(scale=1.0, **arguments) -> LoKrWeights:
    return LoKrWeights(Factor(draw(2, 2)), Factor(draw(4, 4) * scale), **arguments)


def test_what_looks_wrong_is_noted():
    good = {f"m{i}": lokr() for i in range(5)}
    assert notes(good, metadata={"a": "b"}) == ""
    assert "no metadata" in notes(good)
    assert "ΔW is zero" in notes({**good, "x": lokr(0.0)})
    assert "30 times" in notes({**good, "x": lokr(100.0)})
    assert "scaling is far from the usual 1" in notes({**good, "x": lokr(scaling=32.0)})
    mixed = LoKrWeights(Factor(draw(2, 2)), Factor(draw(4, 4).half()))
    unknown = Foreign(modules={"foo.bar": ForeignModule("unknown", ModuleName("foo.bar", "foo.bar"))})
    assert "different dtypes" in notes({**good, "x": mixed})
    assert "unknown kind, such as foo.bar" in notes(good, foreign=unknown)


def test_equal_notes_stand_together():
    found = inspect_adapter(Adapter({f"m{i}": lokr(notes=("assumed",)) for i in range(9)}, metadata={"a": "b"}))
    assert [(note.text, note.modules, note.example) for note in found.notes] == [("assumed", 9, "m0")]
    assert "assumed (9 modules, such as m0)" in found.text()


def test_a_file_keeps_its_name(tmp_path):
    save_adapter(Adapter({"a": lokr()}), tmp_path / "style.safetensors")
    found = inspect_adapter(load_adapter(tmp_path / "style.safetensors"))
    assert found.text().startswith("style.safetensors")
