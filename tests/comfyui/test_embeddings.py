"""Embeddings packed into an adapter's file act in prompts as ComfyUI's own embedding files do."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

PROMPTS = {
    "packed": "a embedding:word, at dusk",
    "folder": "a embedding:same, at dusk",
    "both": "embedding:taken",
    "taken": "embedding:other",
    "unknown": "a embedding:nothing, at dusk",
    "plain": "a, at dusk",
}


@pytest.fixture(scope="module")
def found(comfyui, tmp_path_factory):
    base = tmp_path_factory.mktemp("embeddings")
    torch.manual_seed(0)
    word, taken, other = (torch.randn(rows, 768) * 0.05 for rows in (2, 1, 1))
    for folder in ("loras", "embeddings"):
        (base / "models" / folder).mkdir(parents=True)
    lokr = {
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lokr_w1": torch.randn(8, 8) * 0.01,
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lokr_w2": torch.randn(384, 96) * 0.01,
        "bundle_emb.word.clip_l": word,
        "bundle_emb.word.clip_g": torch.randn(2, 1280),
        "bundle_emb.taken.string_to_param.*": taken,
        "bundle_emb.word.clip_l_out": torch.randn(2, 768),
    }
    save_file(lokr, str(base / "models/loras/lokr.safetensors"))
    for name, vectors in (("same", word), ("taken", other), ("other", other)):
        save_file({"clip_l": vectors}, str(base / f"models/embeddings/{name}.safetensors"))
    out = base / "out.safetensors"
    comfyui.run(base, {"do": "embeddings", "lokr": "lokr.safetensors", "prompts": PROMPTS, "out": str(out)})
    return load_file(out), json.loads(out.with_suffix(".json").read_text())


def test_a_packed_embedding_does_what_the_same_file_does(found):
    encoded, _ = found
    assert torch.equal(encoded["packed.1.0"], encoded["folder.1.0"])
    assert not torch.equal(encoded["packed.1.0"], encoded["plain.1.0"])


def test_a_file_of_the_embeddings_folder_comes_first(found):
    encoded, _ = found
    assert torch.equal(encoded["both.1.0"], encoded["taken.1.0"])


def test_an_unknown_word_is_left_out_of_the_prompt(found):
    encoded, _ = found
    assert torch.equal(encoded["unknown.1.0"], encoded["plain.1.0"])


def test_strength_0_and_the_clip_that_went_in_know_nothing_of_it(found):
    encoded, _ = found
    for name in ("packed", "folder", "plain"):
        assert torch.equal(encoded[f"{name}.0.0"], encoded[f"{name}.after"])
    assert torch.equal(encoded["packed.after"], encoded["unknown.after"])


def test_the_report_says_which_were_used_and_which_were_not(found):
    _, reports = found
    status = {m["module"]: m["status"] for m in reports["1.0"]["modules"] if m["kind"] == "embedding"}
    assert status == {
        "bundle_emb.word.clip_l": "handed to the host",
        "bundle_emb.word.clip_g": "refused",
        "bundle_emb.taken.string_to_param.*": "handed to the host",
        "bundle_emb.word.clip_l_out": "refused",
    }
    assert {m["status"] for m in reports["0.0"]["modules"] if m["kind"] == "embedding"} == {"refused"}
