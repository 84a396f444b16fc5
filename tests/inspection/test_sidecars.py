"""What other programs write beside an adapter file, and the index that keeps what many files say."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from lokr_core.inspection import Index, base_model_spelled, brief, read_sidecars, words_of

FLUX = "lora_unet_double_blocks_0_img_attn_proj"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "style.safetensors"
    tensors = {f"{FLUX}.lokr_w1": torch.ones(16, 16), f"{FLUX}.lokr_w2": torch.ones(16, 16)}
    metadata = {"modelspec.title": "Style", "modelspec.trigger_phrase": "sks"}
    save_file(tensors, str(path), metadata)
    return path


@pytest.mark.parametrize(
    "name,said,words,strength",
    [
        ("style.json", {"activation text": "oil, sks", "preferred weight": 0.7}, ("oil", "sks"), 0.7),
        ("style.json", {"activation text": "", "preferred weight": 0}, (), None),
        ("style.civitai.info", {"trainedWords": ["oil, sks", "oil"]}, ("oil", "sks"), None),
        (
            "style.metadata.json",
            {"civitai": {"trainedWords": ["oil"]}, "usage_tips": '{"strength": 1.2}'},
            ("oil",),
            1.2,
        ),
        ("style.metadata.json", {"civitai": [1], "usage_tips": "[", "trainedWords": {"a": 1}}, (), None),
        ("style.metadata.json", [1, 2], (), None),
    ],
)
def test_a_sidecar_is_read_whatever_it_holds(file, name, said, words, strength):
    file.with_name(name).write_text(json.dumps(said))
    found = read_sidecars(file)
    assert (found.trigger_words, found.strength) == (words, strength)
    assert words_of(file, {"trigger_words": "sks"}) == (list(words) or ["sks"])


def test_a_link_out_of_the_folder_and_a_huge_sidecar_are_left_out(file, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "style.json"
    outside.write_text('{"activation text": "secret"}')
    file.with_suffix(".json").symlink_to(outside)
    file.with_suffix(".civitai.info").write_text('{"trainedWords": ["' + "x" * 5_000_000 + '"]}')
    assert read_sidecars(file).read == ()


def test_html_in_a_description_is_text_without_tags(file):
    file.with_suffix(".civitai.info").write_text(
        json.dumps({"description": "<p>A &amp; <b>B</b><script>x</script></p>"})
    )
    assert read_sidecars(file).notes == "A & B x"


@pytest.mark.parametrize(
    "name,title",
    [("SD 1.5", "Stable Diffusion 1.x"), ("sdxl_base_v1-0", "SDXL"), ("Illustrious", "SDXL"), ("Flux.1 D", "Flux.1"),
     ("flux2", "Flux.2"), ("SD 3.5 Large", "Stable Diffusion 3 and 3.5"), ("Wan Video 14B t2v", "Wan 2.1 and 2.2"),
     ("stable-diffusion-xl-v1-base/lora", "SDXL"), ("sd_v1", "Stable Diffusion 1.x"), ("my model", "my model"),
     ("", "")],
)  # fmt: skip
def test_a_base_model_has_one_spelling(name, title):
    assert base_model_spelled(name) == title


def test_the_index_knows_a_file_until_it_or_a_sidecar_changes(file, tmp_path):
    database = tmp_path / "index.sqlite"
    first = Index(database)
    assert first.known(str(file)) is None
    assert first.read(str(file)).trigger_words == ("sks",)
    again = Index(database)
    assert again.known(str(file)) == first.read(str(file)) == brief(file)
    file.with_suffix(".json").write_text('{"activation text": "oil"}')
    assert again.known(str(file)) is None
    assert again.read(str(file)).trigger_words == ("oil",)
    os.utime(file, ns=(1, 1))
    assert again.known(str(file)) is None
    again.forget([])
    assert Index(database).known(str(file)) is None


@pytest.mark.parametrize("content", [b"not a database", b""])
def test_a_damaged_index_is_begun_anew(file, tmp_path, content):
    database = tmp_path / "index.sqlite"
    database.write_bytes(content)
    assert Index(database).read(str(file)).base_model == "Flux.1"
    assert Index(database).known(str(file)).is_lokr


def test_an_index_that_cannot_be_written_is_kept_in_memory(file, tmp_path):
    index = Index(tmp_path / "no folder" / "index.sqlite")
    assert index.read(str(file)) == index.known(str(file))


def test_a_file_that_cannot_be_read_says_why(tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"")
    found = brief(broken)
    assert (found.kind, found.is_lokr, found.problem) == ("unreadable", False, "The file is empty")
