"""Folders, indexes and shards: the whole adapter or a clear error. And modules that are in a file twice."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from lokr_core import LoKrFileError, load_adapter
from lokr_core.formats import parse_adapter
from tests.formats.lokr_tensors import file_of, keyed, lokr

MODULES = ("lora_unet_a", "lora_unet_b", "lora_unet_c")


@pytest.fixture
def shards(tmp_path):
    """Three shards, the tensors of one module in two of them, and their index: the folder."""
    tensors = file_of(*MODULES)
    keys = list(tensors)
    weight_map = {}
    for number, part in enumerate((keys[:5], keys[5:9], keys[9:]), 1):
        name = f"adapter-{number:05}-of-00003.safetensors"
        metadata = {"ss_output_name": "x"} if number == 2 else {}
        save_file({key: tensors[key] for key in part}, str(tmp_path / name), metadata)
        weight_map |= dict.fromkeys(part, name)
    (tmp_path / "adapter.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return tmp_path


GIVEN = ["", "adapter.safetensors.index.json"] + [f"adapter-0000{number}-of-00003.safetensors" for number in (1, 3)]


@pytest.mark.parametrize("given", GIVEN)
def test_shards_are_loaded_together(shards, given):
    adapter = load_adapter(shards / given)
    expected = parse_adapter(file_of(*MODULES))
    assert list(adapter) == list(MODULES) and adapter.metadata == {"ss_output_name": "x"}
    assert all(torch.equal(adapter[m].delta(), expected[m].delta()) for m in MODULES)


def test_shards_without_an_index(shards):
    (shards / "adapter.safetensors.index.json").unlink()
    assert list(load_adapter(shards)) == list(MODULES)


@pytest.mark.parametrize("given", GIVEN[:3])
def test_a_shard_is_missing(shards, given):
    (shards / "adapter-00003-of-00003.safetensors").unlink()
    with pytest.raises(LoKrFileError, match="not all are here") as caught:
        load_adapter(shards / given)
    error = caught.value
    assert error.found == "missing: adapter-00003-of-00003.safetensors" and "3 files: adapter-00001" in error.expected
    assert str(shards) in str(error.file) and "same folder" in error.hint


def test_a_shard_of_another_adapter(shards):
    save_file(keyed("lora_unet_a"), str(shards / "adapter-00003-of-00003.safetensors"))
    with pytest.raises(LoKrFileError, match="in two shards") as caught:
        load_adapter(shards / GIVEN[2])
    assert caught.value.module.startswith("lora_unet_a.") and "different adapters" in caught.value.hint


def test_an_index_that_names_what_is_not_there(shards):
    index = shards / "adapter.safetensors.index.json"
    entries = json.loads(index.read_text())
    entries["weight_map"]["lora_unet_d.lokr_w1"] = "adapter-00001-of-00003.safetensors"
    index.write_text(json.dumps(entries))
    with pytest.raises(LoKrFileError, match="in none of its shards") as caught:
        load_adapter(index)
    assert caught.value.module == "lora_unet_d.lokr_w1"


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": []}', '{"weight_map": {"a": 1}}', "[" * 100_000,
        '{"weight_map": {"a": "../a.safetensors"}}', '{"weight_map": {"a": "/a.safetensors"}}',
        '{"weight_map": {"a": "a.bin"}}',
    ],
)  # fmt: skip
def test_an_index_that_cannot_be_used(tmp_path, text):
    path = tmp_path / "a.safetensors.index.json"
    path.write_text(text)
    with pytest.raises(LoKrFileError, match="The index cannot be used") as caught:
        load_adapter(path)
    assert caught.value.file == path and "weight_map" in caught.value.expected and caught.value.hint


@pytest.mark.parametrize("name", ["adapter_model", "pytorch_lora_weights", "lokr_weights", "anything ü"])
def test_the_adapter_in_a_folder(tmp_path, name):
    save_file(file_of(*MODULES), str(tmp_path / f"{name}.safetensors"))
    (tmp_path / "training_state.pt").write_bytes(b"x")
    if name != "anything ü":
        save_file({"x": torch.ones(1)}, str(tmp_path / "another.safetensors"))
    adapter = load_adapter(str(tmp_path))
    assert list(adapter) == list(MODULES) and adapter.path == tmp_path / f"{name}.safetensors"


@pytest.mark.parametrize(
    "names,problem,found",
    [
        ([], "no adapter", "0 other files"),
        (["readme.md"], "no adapter", "1 other files"),
        (["adapter_model.bin"], "no adapter", "adapter_model.bin"),
        (["a.safetensors", "b.safetensors"], "several adapters", "a.safetensors, b.safetensors"),
        (["a.safetensors", "b-00001-of-00002.safetensors"], "several adapters", "a.safetensors, b-0"),
    ],
)
def test_a_folder_that_holds_not_one_adapter(tmp_path, names, problem, found):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(LoKrFileError, match=problem) as caught:
        load_adapter(tmp_path)
    assert caught.value.file == tmp_path and found in caught.value.found and caught.value.hint
    if "adapter_model.bin" in names:
        assert "pickles" in caught.value.hint


def test_a_name_like_a_shards_that_is_none(tmp_path):
    save_file(file_of("a.b"), str(tmp_path / "style-00001-of-00001.safetensors"))
    assert list(load_adapter(tmp_path / "style-00001-of-00001.safetensors")) == ["a.b"]


TWICE = [
    ("lora_unet_double_blocks_0_img_attn_qkv", "diffusion_model.double_blocks.0.img_attn.qkv"),
    ("lycoris_transformer_blocks_0_attn_to_q", "transformer.transformer_blocks.0.attn.to_q"),
    ("base_model.model.blocks.0.q", "blocks.0.q"),
    ("lora_te_text_model_x", "text_encoder.text_model.x"),
]


@pytest.mark.parametrize("first,second", TWICE)
def test_a_module_twice_in_two_spellings(first, second):
    same = lokr(alpha=2)
    adapter = parse_adapter({**keyed(first, same), **keyed(second, same), **keyed("other.x", lokr(seed=5))})
    assert list(adapter) == list(adapter.names) == [first, "other.x"]
    assert adapter.notes == [
        f"1 modules are in the file twice with the same numbers, such as {first} and {second}: each is used once"
    ]


@pytest.mark.parametrize("changed", ["lokr_w1", "lokr_w2_b", "alpha", "dora_scale"])
@pytest.mark.parametrize("first,second", TWICE)
def test_a_module_twice_with_other_numbers(first, second, changed):
    tensors = lokr(alpha=2, dora=True)
    other = {**tensors, changed: tensors[changed] + 1}
    with pytest.raises(LoKrFileError, match="twice, in two spellings") as caught:
        parse_adapter({**keyed(first, tensors), **keyed(second, other)})
    assert caught.value.module == first and caught.value.found == f"{first} and {second}"
    assert "one by one" in caught.value.hint


@pytest.mark.parametrize(
    "modules",
    [
        ("lora_te1_text_model_x", "lora_te2_text_model_x"),
        ("lora_unet_text_model_x", "lora_te_text_model_x"),
        ("a.b_c", "a_b.c"),  # two modules that would be one if they were flattened
        ("unet.conv_in", "text_encoder.conv_in"),
    ],
)
def test_modules_whose_names_are_alike_but_not_one(modules):
    adapter = parse_adapter(file_of(*modules))
    assert tuple(adapter) == modules and adapter.notes == []


def test_one_tensor_under_two_keys():
    tensors = file_of("a.b", alpha=None)
    again = {f"{key}.default": t.clone() for key, t in tensors.items()}
    assert list(parse_adapter({**tensors, **again})) == ["a.b"]
    again["a.b.lokr_w1.default"] += 1
    with pytest.raises(LoKrFileError, match="A module has lokr_w1 twice") as caught:
        parse_adapter({**tensors, **again})
    assert caught.value.module == "a.b" and caught.value.found == "a.b.lokr_w1 and a.b.lokr_w1.default"
