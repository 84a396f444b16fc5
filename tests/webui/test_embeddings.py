"""Words packed into an adapter's file: prompts know them while a tag names the file, and no longer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.webui.adapters import SD15, lokr, save
from tests.webui.conftest import Painter, apart
from tests.webui.test_network import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    for name in ("a", "b"):
        file = tmp_path / f"{name}.safetensors"
        save_file(load_file(file) | {f"bundle_emb.word {name}.clip_l": torch.ones(2, 8)}, str(file))
    return world


@pytest.mark.parametrize("mode", ["live", "merge"])
def test_prompts_know_the_words_of_the_files_that_tags_name(world: World, mode: str):
    world.mode = mode
    run = world.activate("<lokr:a:1> <lokr:b:1>")
    assert list(world.host.words) == ["word a", "word b"] and not run.comments
    world.activate("<lokr:b:0.5>")
    assert list(world.host.words) == ["word b"]
    world.activate("")
    assert world.host.words == {}


def test_a_word_that_the_user_has_stays_the_users_and_the_report_says_so(world: World):
    world.host.words["word a"] = mine = object()
    run = world.activate("<lokr:a:1>")
    assert world.host.words == {"word a": mine} and "1 refused" in next(iter(run.comments))
    world.activate("")
    assert world.host.words == {"word a": mine}


def test_a_host_that_takes_no_words_from_files_names_them_in_the_report(world: World):
    """Forge's text engines; its built-in does not fill them from files either."""
    world.host.lend_embeddings = lambda model, embeddings: (set(), lambda: None)
    said = next(iter(world.activate("<lokr:a:1>").comments))
    assert "1 refused; 1 × embedding is not LoKr" in said and "such as bundle_emb.word a.clip_l" in said


def test_words_are_taken_back_when_the_run_is_over_and_come_back_with_the_next(world: World):
    run = world.activate("<lokr:a:1>")
    world.networks.deactivate(run, world.data)
    assert world.host.words == {}
    world.activate("<lokr:a:1>")
    assert list(world.host.words) == ["word a"]


def test_words_go_with_the_model(world: World):
    world.activate("<lokr:a:1>")
    world.network.model_loaded(world.host.loaded)  # new weights in the same model, in the middle of a run
    assert list(world.host.words) == ["word a"]
    world.network.close()
    assert world.host.words == {}


def test_an_adapter_whose_words_fail_is_not_left_on_the_model(world: World):
    def fail(model, embeddings):
        raise LookupError("no database")

    base = world.outputs()
    world.host.lend_embeddings, world.host.trouble = fail, lambda text: None
    run = world.activate("<lokr:a:1>")
    assert "no database" in next(iter(run.comments))
    assert all(map(torch.equal, world.outputs(), base))


def test_the_picture_is_that_of_the_built_in_which_knows_the_words_too(painter: Painter):
    folder = painter.server.base / "models/Lora"
    tensors = lokr({"unet": SD15["unet"]}, seed=9)
    width = next(shape[-1] for name, shape in SD15["te"].items() if name.endswith("q_proj"))
    save(tensors, folder / "bare.safetensors")
    save({**tensors, "bundle_emb.zorp.clip_l": torch.randn(2, width)}, folder / "packed.safetensors")
    plain, ours = painter("a zorp"), painter("a zorp <lokr:packed:0.7>")
    assert painter.comments() == ""
    theirs = painter("a zorp <lora:packed:0.7>")
    assert apart(ours, theirs) <= 1 < apart(ours, painter("a zorp <lokr:bare:0.7>"))
    # In turns with the built-in, whose words stay until its next run.
    assert apart(painter("a zorp <lokr:packed:0.7>"), theirs) <= 1 >= apart(painter("a zorp <lora:packed:0.7>"), theirs)
    assert apart(painter("a zorp"), plain) == 0
