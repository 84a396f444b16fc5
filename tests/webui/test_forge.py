"""Pictures that a real Forge, Forge Neo and reForge make with ``<lokr:…>``, beside their own ``<lora:…>`` and beside
merged checkpoints.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.webui.adapters import FORGE_SD15
from tests.webui.conftest import Painter, SmallHost, apart

LOOKS_OTHER = 20


@pytest.fixture(scope="module")
def checkpoint(patched_host: SmallHost) -> Path:
    return patched_host.checkpoint


@pytest.fixture(scope="module")
def hires(patched_host: SmallHost) -> dict:
    return dict(patched_host.hires)


@pytest.fixture(scope="module")
def painter(patched_host: SmallHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Painter]:
    # Forge Neo would change to a refiner at a level of noise.
    with patched_host.painter(tmp_path_factory.mktemp("forge"), refiner_use_steps=True) as painter:
        yield painter


@pytest.mark.parametrize(
    "name, strengths",
    [("style", "0.7"), ("style", "te=0.5"), ("style", "0"), ("whole", "0.3:-0.6"), ("unet only", "0.4:unet=0.9")],
)
@pytest.mark.parametrize("mode", ["live", "merge"])
def test_where_the_built_in_is_right_the_picture_is_its_own(painter: Painter, name: str, strengths: str, mode: str):
    ours = painter(f"a lighthouse <lokr:{name}:{strengths}:mode={mode}>")
    assert painter.comments() == ""
    assert apart(ours, painter(f"a lighthouse <lora:{name}:{strengths}>")) <= 2
    assert (apart(ours, painter("a lighthouse")) > LOOKS_OTHER) == (strengths != "0")


@pytest.mark.parametrize("name", ["dora", "dora-in", "peft"])
def test_where_it_is_not_the_picture_is_that_of_the_merged_checkpoint(painter: Painter, checkpoint: Path, name: str):
    live = painter(f"a lighthouse <lokr:{name}:0.7:mode=live>")
    assert painter.comments() == "" and painter.server.get("/probe/hooks") > 0
    merge = painter(f"a lighthouse <lokr:{name}:0.7:mode=merge>")
    assert painter.comments() == "" and painter.server.get("/probe/hooks") == 0
    assert apart(live, painter("a lighthouse")) > LOOKS_OTHER
    expected = painter.with_merged("a lighthouse", checkpoint, name, 0.7)
    assert apart(live, expected) <= 2 >= apart(merge, expected)


def test_forges_lora_on_the_same_layers_keeps_its_work_and_ours(painter: Painter):
    base, plain = painter("a pier"), painter("a pier <lora:plain:1>")
    theirs = painter("a pier <lora:style:0.7> <lora:plain:1>")
    for mode in ("live", "merge"):
        tag = f"<lokr:style:0.7:mode={mode}>"
        assert apart(painter(f"a pier {tag} <lora:plain:1>"), theirs) <= 2
        assert apart(painter(f"a pier <lora:plain:1> {tag}"), theirs) <= 2
        assert apart(painter(f"a pier {tag}"), painter("a pier <lora:style:0.7>")) <= 2
        assert apart(painter("a pier <lora:plain:1>"), plain) == 0
        assert apart(painter(f"a pier {tag}"), painter("a pier <lora:style:0.7>")) <= 2
        assert apart(painter("a pier"), base) == 0
    assert apart(base, plain) > LOOKS_OTHER < apart(theirs, plain)


def test_the_norms_of_a_dora_are_those_of_the_unpatched_weights(painter: Painter):
    """Weights that Forge has patched, with nothing in the end: the DoRA must not see the difference."""
    nothing = "<lora:plain:1> <lora:plain:-1>"
    assert apart(painter(f"a pier <lokr:dora:0.7> {nothing}"), painter("a pier <lokr:dora:0.7>")) <= 2
    patched = painter("a pier <lora:plain:1> <lokr:dora:0.7:mode=merge>")
    assert apart(painter("a pier <lokr:dora:0.7:mode=merge> <lora:plain:1>"), patched) <= 2


def test_tags_add_up_also_those_of_one_file(painter: Painter):
    for mode in ("live", "merge"):
        twice = painter(f"a pier <lokr:style:0.5:mode={mode}> <lokr:style:0.2:mode={mode}>")
        assert apart(twice, painter("a pier <lora:style:0.7>")) <= 2
        both = painter(f"a pier <lokr:style:0.5:mode={mode}> <lokr:whole:-0.4>")
        assert apart(both, painter("a pier <lora:style:0.5> <lora:whole:-0.4>")) <= 2


def test_blocks_and_a_window_of_steps(painter: Painter):
    text_only = painter("a pier <lokr:style:0.7:0>", steps=4)
    full = painter("a pier <lokr:style:0.7>", steps=4)
    assert apart(painter("a pier <lokr:style:0.7:blocks=ALL=0>", steps=4), text_only) == 0
    assert apart(painter("a pier <lokr:style:0.7:start=0:end=1>", steps=4), full) == 0
    half = painter("a pier <lokr:style:0.7:start=0.5>", steps=4)
    assert apart(half, full) > 0 < apart(half, text_only)
    some = painter("a pier <lokr:style:0.7:blocks=IN=0,OUT4-11=0.5>", steps=4)
    assert apart(some, text_only) > 0 < apart(some, full)
    assert apart(painter("a pier <lokr:style:0.7:blocks=IN=0,OUT4-11=0.5:mode=merge>", steps=4), some) <= 2


@pytest.mark.parametrize("mode", ["live", "merge"])
def test_hires_fix_has_a_prompt_and_tags_of_its_own(painter: Painter, hires: dict, mode: str):
    first = f"a pier <lokr:style:0.7:mode={mode}>"
    one = painter(first, hr_prompt=f"a pier <lokr:whole:0.8:mode={mode}>", **hires)
    assert apart(one, painter("a pier <lora:style:0.7>", hr_prompt="a pier <lora:whole:0.8>", **hires)) <= 2
    none = painter(first, hr_prompt="a pier", **hires)
    assert apart(none, painter("a pier <lora:style:0.7>", hr_prompt="a pier", **hires)) <= 2
    assert apart(one, none) > 2


def test_prompt_editing_and_prompts_joined_by_and(painter: Painter):
    for prompt in (
        "a [pier:tower:0.5] <{}:style:0.7>",
        "a pier <{}:style:0.7> AND a tower :0.6",
        "(a:1.3) <{}:style:1>",
    ):
        assert apart(painter(prompt.format("lokr"), steps=4), painter(prompt.format("lora"), steps=4)) <= 2


def test_a_changed_strength_encodes_the_prompt_anew(painter: Painter):
    text = [painter(f"a pier <lokr:style:{te}:0>") for te in ("0.2", "0.9", "0.2")]
    assert apart(text[0], text[1]) > 0 == apart(text[0], text[2])


def test_another_checkpoint_takes_what_the_prompt_says(painter: Painter, checkpoint: Path):
    other = checkpoint.with_name("other-sd15.safetensors")
    shutil.copy(checkpoint, other)
    painter.server.post("/sdapi/v1/refresh-checkpoints", {})
    first = painter("a pier <lokr:dora:0.7>")
    for mode in ("live", "merge"):
        ours = painter(f"a pier <lokr:style:0.7:mode={mode}>", override_settings={"sd_model_checkpoint": other.name})
        assert painter.server.get("/probe/models") == 1, "the model before is kept in memory"
        assert apart(ours, painter("a pier <lora:style:0.7>")) <= 2
    assert apart(painter("a pier <lokr:dora:0.7>"), first) == 0
    other.unlink()


@pytest.fixture
def refiner(painter: Painter, checkpoint: Path) -> Iterator[Path]:
    """A checkpoint with the same weights in other places."""
    file = checkpoint.with_name("refiner-sd15.safetensors")
    tensors = load_file(checkpoint)
    changed = {name: tensor.flip(0).contiguous() for name, tensor in tensors.items() if "first_stage" not in name}
    save_file(tensors | changed, file)
    painter.server.post("/sdapi/v1/refresh-checkpoints", {})
    yield file
    file.unlink()


def test_a_refiner_takes_the_tags_over_in_the_middle_of_a_run(painter: Painter, refiner: Path):
    refined = {"refiner_checkpoint": refiner.name, "refiner_switch_at": 0.25, "steps": 4}
    base = painter("a pier", **refined)
    assert apart(base, painter("a pier", steps=4)) > LOOKS_OTHER
    theirs = painter("a pier <lora:style:0.7> <lora:plain:1>", **refined)
    for mode in ("live", "merge"):
        assert apart(painter(f"a pier <lokr:style:0.7:mode={mode}> <lora:plain:1>", **refined), theirs) <= 2
        assert painter.comments() == ""
    live, merge = (painter(f"a pier <lokr:dora:0.7:mode={mode}>", **refined) for mode in ("live", "merge"))
    assert apart(live, merge) <= 2 and apart(live, base) > LOOKS_OTHER < apart(theirs, base)
    assert apart(painter("a pier", **refined), base) == 0
    painter("a pier")
    assert painter.server.get("/probe/models") == 1, "a model of the run before is kept in memory"


def test_an_unknown_name_makes_the_picture_and_says_so(painter: Painter):
    base = painter("a pier")
    assert apart(painter("a pier <lokr:styel:0.7>"), base) == 0
    assert "no LoKr of this name" in painter.comments() and "style" in painter.comments()


def test_the_api_lists_and_reports(painter: Painter):
    painter("a pier")
    assert {"style", "dora"} <= {adapter["name"] for adapter in painter.server.get("/lokr/v1/adapters")}
    assert painter.server.get("/lokr/v1/report", name="style")["applied"] == sum(map(len, FORGE_SD15.values()))


@pytest.fixture(scope="module")
def fp8_painter(patched_host: SmallHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Painter]:
    """Its UNet lies in fp8, and its own LoRA is added to the numbers that a layer computes with."""
    settings = {"forge_unet_storage_dtype": "Automatic (fp16 LoRA)"}
    with patched_host.painter(tmp_path_factory.mktemp("fp8"), *patched_host.fp8, **settings) as painter:
        yield painter


@pytest.mark.parametrize("mode", ["live", "merge"])
def test_an_fp8_unet(fp8_painter: Painter, patched_host: SmallHost, mode: str):
    rounding = patched_host.fp8_apart if mode == "live" else 2
    base = fp8_painter("a pier")
    for name in ("style", "whole", "unet only"):
        ours = fp8_painter(f"a pier <lokr:{name}:0.7:mode={mode}>")
        assert fp8_painter.comments() == ""
        assert apart(ours, fp8_painter(f"a pier <lora:{name}:0.7>")) <= rounding
        assert apart(ours, base) > LOOKS_OTHER
    assert apart(fp8_painter("a pier"), base) == 0


def test_dora_on_an_fp8_unet(fp8_painter: Painter, patched_host: SmallHost):
    live, merge = (fp8_painter(f"a pier <lokr:dora:0.7:mode={mode}>") for mode in ("live", "merge"))
    assert apart(live, merge) <= patched_host.fp8_apart
    assert apart(live, fp8_painter("a pier")) > LOOKS_OTHER
