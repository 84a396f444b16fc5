"""Pictures that a real A1111 makes with ``<lokr:…>``, beside its own ``<lora:…>`` and beside merged checkpoints."""

from __future__ import annotations

import base64
import io
import os
import time

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.webui.adapters import SD2, SD15, SDXL, lokr, onetrainer, peft, save, simpletuner
from tests.webui.conftest import HIRES, Painter, apart

LOOKS_OTHER = 20
"""How far two pictures are apart, at the least, that are not the same: 1/255 is rounding."""


@pytest.mark.parametrize(
    "name, strengths",
    [("style", "0.7"), ("style", "te=0.5"), ("style", "0"), ("whole", "0.3:-0.6"), ("unet only", "0.4:unet=0.9")],
)
def test_where_the_built_in_is_right_the_picture_is_its_own(painter: Painter, name: str, strengths: str):
    ours = painter(f"a lighthouse <lokr:{name}:{strengths}>")
    assert painter.comments() == ""
    assert apart(ours, painter(f"a lighthouse <lora:{name}:{strengths}>")) <= 1
    assert (apart(ours, painter("a lighthouse")) > LOOKS_OTHER) == (strengths != "0")


UNET_ONLY = {"unet": SD15["unet"]}
BESIDE = {
    "dora on the output axis": lokr(SD15, dora="out", seed=3),
    "dora on the input axis": lokr(SD15, dora="in", seed=4),
    "names of peft": lokr(UNET_ONLY, peft, seed=5, alpha=False),
    "names of onetrainer": lokr(SD15, onetrainer, seed=6),
    "names of simpletuner": lokr(UNET_ONLY, simpletuner, seed=7),
}


@pytest.mark.parametrize("case", BESIDE)
def test_where_it_is_not_the_picture_is_that_of_the_merged_checkpoint(painter, checkpoints, case):
    save(BESIDE[case], painter.server.base / f"models/Lora/{case}.safetensors")
    live = painter(f"a lighthouse <lokr:{case}:0.7:mode=live>")
    assert painter.comments() == "" and painter.server.get("/probe/hooks") > 0
    merge = painter(f"a lighthouse <lokr:{case}:0.7:mode=merge>")
    assert painter.comments() == "" and painter.server.get("/probe/hooks") == 0
    assert apart(live, painter("a lighthouse")) > LOOKS_OTHER
    try:
        expected = painter.with_merged("a lighthouse", checkpoints / "tiny-sd15.safetensors", case, 0.7)
    finally:
        painter.use("tiny-sd15.safetensors")
    assert apart(live, expected) <= 1 >= apart(merge, expected)


@pytest.mark.parametrize("kind, layers", [("sd2", SD2), ("sdxl", SDXL)])
def test_models_with_openclip_text_encoders(painter: Painter, checkpoints, kind: str, layers: dict):
    """The built-in takes kohya's names here, all of an attention's projections or none."""
    folder = painter.server.base / "models/Lora"
    save(lokr(layers, seed=8), folder / f"for {kind}.safetensors")
    save(lokr(layers, dora="out", seed=8), folder / f"dora {kind}.safetensors")
    painter.use(f"tiny-{kind}.safetensors")
    try:
        base = painter("a lighthouse")
        ours = painter(f"a lighthouse <lokr:for {kind}:0.7>")
        assert painter.comments() == ""
        assert apart(ours, base) > LOOKS_OTHER
        assert apart(ours, painter(f"a lighthouse <lora:for {kind}:0.7>")) <= 1
        assert apart(painter("a lighthouse"), base) == 0
        dora = painter(f"a lighthouse <lokr:dora {kind}:0.7>")
        expected = painter.with_merged("a lighthouse", checkpoints / f"tiny-{kind}.safetensors", f"dora {kind}", 0.7)
        assert apart(dora, expected) <= 1
    finally:
        painter.use("tiny-sd15.safetensors")


def test_the_built_ins_lora_on_the_same_layers_keeps_its_work_and_ours(painter: Painter):
    base, plain = painter("a pier"), painter("a pier <lora:plain:1>")
    theirs = painter("a pier <lora:style:0.7> <lora:plain:1>")
    for mode in ("live", "merge"):
        tag = f"<lokr:style:0.7:mode={mode}>"
        assert apart(painter(f"a pier {tag} <lora:plain:1>"), theirs) <= 1
        assert apart(painter(f"a pier <lora:plain:1> {tag}"), theirs) <= 1
        assert apart(painter(f"a pier {tag}"), painter("a pier <lora:style:0.7>")) <= 1
        assert apart(painter("a pier <lora:plain:1>"), plain) == 0
        assert apart(painter(f"a pier {tag}"), painter("a pier <lora:style:0.7>")) <= 1
        assert apart(painter("a pier"), base) == 0
    assert apart(base, plain) > LOOKS_OTHER < apart(theirs, plain)


def test_tags_add_up_also_those_of_one_file(painter: Painter):
    twice = painter("a pier <lokr:style:0.5> <lokr:style:0.2>")
    assert apart(twice, painter("a pier <lora:style:0.7>")) <= 1
    both = painter("a pier <lokr:style:0.5> <lokr:whole:-0.4>")
    assert apart(both, painter("a pier <lora:style:0.5> <lora:whole:-0.4>")) <= 1


def test_a_window_of_steps(painter: Painter):
    """At no step the picture is the one without the UNet's part, at all of them the one with it."""
    full, text_only = painter("a pier <lokr:style:0.7>", steps=4), painter("a pier <lokr:style:0.7:0>", steps=4)
    assert apart(painter("a pier <lokr:style:0.7:start=0:end=1>", steps=4), full) == 0
    half = painter("a pier <lokr:style:0.7:start=0.5>", steps=4)
    assert apart(half, full) > 0 < apart(half, text_only)
    # DDIM passes timesteps where other samplers pass sigmas.
    ddim = {"steps": 4, "sampler_name": "DDIM"}
    assert apart(painter("a pier <lokr:style:0.7:start=0.5>", **ddim), painter("a pier <lokr:style:0.7>", **ddim)) > 0
    # The last of four steps begins at 1.
    last = painter("a pier <lokr:style:0.7:start=0.9>", steps=4)
    assert apart(last, text_only) > 0 < apart(last, half)


def test_blocks(painter: Painter):
    text_only = painter("a pier <lokr:style:0.7:0>")
    assert apart(painter("a pier <lokr:style:0.7:blocks=ALL=0>"), text_only) == 0
    some = painter("a pier <lokr:style:0.7:blocks=IN=0,OUT4-11=0.5>")
    assert apart(some, text_only) > 0 < apart(some, painter("a pier <lokr:style:0.7>"))
    assert apart(painter("a pier <lokr:style:0.7:blocks=IN=0,OUT4-11=0.5:mode=merge>"), some) <= 1
    painter("a pier <lokr:style:0.7:blocks=DOUBLE=0>")
    assert "Unknown blocks for this model: DOUBLE" in painter.comments() and "IN0 to IN11" in painter.comments()


def test_hires_fix_has_a_prompt_and_tags_of_its_own(painter: Painter):
    one = painter("a pier <lokr:style:0.7>", hr_prompt="a pier <lokr:whole:0.8>", **HIRES)
    assert apart(one, painter("a pier <lora:style:0.7>", hr_prompt="a pier <lora:whole:0.8>", **HIRES)) <= 1
    none = painter("a pier <lokr:style:0.7>", hr_prompt="a pier", **HIRES)
    assert apart(none, painter("a pier <lora:style:0.7>", hr_prompt="a pier", **HIRES)) <= 1
    assert apart(one, none) > LOOKS_OTHER


def test_image_to_image(painter: Painter):
    png = io.BytesIO()
    Image.fromarray(painter("a pier").astype("uint8")).save(png, "PNG")
    source = {"init_images": [base64.b64encode(png.getvalue()).decode()], "denoising_strength": 0.8, "steps": 3}
    ours, theirs = (painter(f"a pier <{kind}:style:0.7>", "img2img", **source) for kind in ("lokr", "lora"))
    assert apart(ours, theirs) <= 1
    assert apart(ours, painter("a pier", "img2img", **source)) > LOOKS_OTHER


def test_prompt_editing_and_prompts_joined_by_and(painter: Painter):
    for prompt in (
        "a [pier:tower:0.5] <{}:style:0.7>",
        "a pier <{}:style:0.7> AND a tower :0.6",
        "(a:1.3) <{}:style:1>",
    ):
        assert apart(painter(prompt.format("lokr"), steps=4), painter(prompt.format("lora"), steps=4)) <= 1


def test_x_y_z_plot_over_the_strength(painter: Painter):
    """Search and replace in the prompt, as people plot <lora:>'s strengths."""
    prompt_s_r = 7
    plots = []
    for kind in ("lokr", "lora"):
        axes = [prompt_s_r, f"<{kind}:style:0.1>,<{kind}:style:0.7>", [], 0, "", [], 0, "", []]
        legend, pictures, grids, seeds, margin, csv = False, True, False, [False] * 4, 0, True
        arguments = [*axes, legend, pictures, grids, *seeds, margin, csv]
        run = {"script_name": "x/y/z plot", "script_args": arguments}
        _grid, *plotted = painter.pictures(f"a pier <{kind}:style:0.1>", **run)
        plots.append(plotted)
    (weak, strong), (their_weak, their_strong) = plots
    assert apart(weak, their_weak) <= 1 >= apart(strong, their_strong)
    assert apart(weak, strong) > LOOKS_OTHER


def test_a_file_that_is_replaced_is_read_anew(painter: Painter):
    path = painter.server.base / "models/Lora/changing.safetensors"
    save(lokr(SD15, seed=20), path)
    first = painter("a pier <lokr:changing:0.7>")
    save(lokr(SD15, seed=21), path)
    os.utime(path, ns=(time.time_ns(), time.time_ns()))
    second = painter("a pier <lokr:changing:0.7>")  # the prompt's words and tags are the same: its encoding is not
    assert apart(second, first) > LOOKS_OTHER
    path.unlink()
    without = painter("a pier <lokr:changing:0.7>")
    assert "no LoKr of this name" in painter.comments()
    assert apart(without, painter("a pier")) == 0
    save(lokr(SD15, seed=20), path)
    assert apart(painter("a pier <lokr:changing:0.7>"), first) == 0


def test_another_model_takes_what_the_prompt_says_and_the_old_one_nothing(painter: Painter, checkpoints):
    other = checkpoints / "other-sd15.safetensors"
    if not other.exists():
        save_file({k: v * 0.97 for k, v in load_file(checkpoints / "tiny-sd15.safetensors").items()}, other)
        other.with_suffix(".yaml").write_text((checkpoints / "tiny-sd15.yaml").read_text())
    painter.server.post("/sdapi/v1/refresh-checkpoints", {})
    first, base = painter("a pier <lokr:dora:0.7>"), painter("a pier")
    weights = painter.server.get("/probe/weights")
    for mode in ("live", "merge"):
        painter(f"a pier <lokr:style:0.7:mode={mode}> <lokr:dora:0.7>")
        painter.use("other-sd15.safetensors")
        assert painter.server.get("/probe/hooks") == 0
        clean = painter.server.get("/probe/weights")
        ours = painter(f"a pier <lokr:style:0.7:mode={mode}>")
        assert apart(ours, painter("a pier <lora:style:0.7>")) <= 1
        painter("a pier")
        assert painter.server.get("/probe/weights") == clean
        painter.use("tiny-sd15.safetensors")
        assert apart(painter("a pier"), base) == 0
        assert apart(painter("a pier <lokr:dora:0.7>"), first) == 0
        painter("a pier")
        assert painter.server.get("/probe/weights") == weights


def test_the_refiner_takes_what_it_has_of_the_adapter_and_says_so(painter: Painter):
    """SDXL's base changes to the refiner within a run, which encodes the prompt anew: with another text encoder."""
    save(lokr(SDXL, seed=8), painter.server.base / "models/Lora/for both.safetensors")
    refined = {"refiner_checkpoint": "tiny-refiner.safetensors", "refiner_switch_at": 0.5, "steps": 4}
    painter.use("tiny-sdxl.safetensors")
    try:
        base = painter("a pier", **refined)
        ours = painter("a pier <lokr:for both:0.7>", **refined)
        assert "refused" in painter.comments()
        assert apart(ours, base) > LOOKS_OTHER
        assert apart(painter("a pier", **refined), base) == 0
        assert apart(painter("a pier <lokr:for both:0.7>", **refined), ours) == 0
        # With room for two models the host keeps them, and changes between them without a word.
        painter.server.post("/sdapi/v1/options", {"sd_checkpoints_limit": 2})
        for _ in range(3):
            assert apart(painter("a pier <lokr:for both:0.7>", **refined), ours) == 0
        assert apart(painter("a pier", **refined), base) == 0
    finally:
        painter.server.post("/sdapi/v1/options", {"sd_checkpoints_limit": 1})
        painter.use("tiny-sd15.safetensors")
    assert painter.server.get("/probe/hooks") == 0


def test_bad_input_makes_the_picture_and_says_what_is_wrong(painter: Painter):
    base = painter("a pier")
    folder = painter.server.base / "models/Lora"
    save(lokr({"unet": {"double_blocks.0.img_attn.qkv": (768, 256)}}), folder / "for flux.safetensors")
    save(lokr(SDXL), folder / "for big.safetensors")
    (folder / "cut.safetensors").write_bytes((folder / "style.safetensors").read_bytes()[:-100])
    save(lokr(SD15, seed=30), folder / "été (v2) [x] 水彩.safetensors")
    save(lokr(SD15, seed=30), painter.server.base / "models/outside.safetensors")
    for tag, *said in (
        ("<lokr:styel:0.7>", "no LoKr of this name", "style"),
        ("<lokr:plain:1>", "no LoKr in this file", "<lora:plain:1>"),
        ("<lokr:for flux>", "None of the 1 modules", "no such weight in this model"),
        ("<lokr:for flux>", "looks like an adapter for Flux.1", "the model is Stable Diffusion 1.x"),
        ("<lokr:cut>", "truncated", "cut.safetensors"),
        ("<lokr:style:strong>", "not a number", "<lokr:style:strong>"),
        ("<lokr:style:nan>", "not a number"),
        ("<lokr:style:1:1:8>", "two strengths"),
        ("<lokr:style:dyn=8>", "option of a tag: 'dyn'", "te, clip, unet, model, expert, blocks, start, end, mode"),
        ("<lokr:style:start=2>", "from 0 to 1"),
        ("<lokr:style:start=0.8:end=0.2>", "starts before it ends"),
        ("<lokr:style:mode=fast>", "mode=live or mode=merge"),
        ("<lokr:style:mode=merge:start=0.5>", "one strength for the whole run"),
        ("<lokr:style:blocks=IN>", "blocks=IN=0.5"),
        ("<lokr:../outside>", "no LoKr of this name"),
        ("<lokr:../../models/outside.safetensors>", "no LoKr of this name"),
        (f"<lokr:{folder}/style>", "no LoKr of this name"),
    ):
        assert apart(painter(f"a pier {tag}"), base) == 0, tag
        assert all(words in painter.comments() for words in said), (tag, painter.comments())
        assert str(folder) in tag or str(folder) not in painter.comments(), tag
    both = painter("a pier <lokr:nothing> <lokr:style:0.7>")
    assert apart(both, painter("a pier <lora:style:0.7>")) <= 1
    named = painter("a pier <lokr:été (v2) [x] 水彩:0.7>")
    assert painter.comments() == ""
    assert apart(named, base) > LOOKS_OTHER
    partly = painter("a pier <lokr:for big:0.7>")
    assert "refused" in painter.comments() and "such as lora_" in painter.comments()
    assert apart(partly, base) > 0
