"""What people write: strengths of blocks, curves, tags in a prompt."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lokr_core import LoKrValueError
from lokr_core.strengths import (
    EASES,
    PRESETS,
    SLIDER_LIMIT,
    BlockStrengths,
    Schedule,
    keyframes,
    noise_percent,
    read_tags,
    step_percent,
)
from lokr_core.strengths._blocks import block_groups
from tests.hosts import PROJECT

UNET = [
    "diffusion_model.input_blocks.0.0",
    "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q",
    "diffusion_model.input_blocks.11.0.in_layers.2",
    "diffusion_model.middle_block.1.proj_in",
    "diffusion_model.output_blocks.1.1.transformer_blocks.0.ff.net.0.proj",
    "diffusion_model.time_embed.0",
    "diffusion_model.label_emb.0.0",
    "diffusion_model.out.2",
]
FLUX = [
    "diffusion_model.double_blocks.0.img_attn.qkv",
    "diffusion_model.double_blocks.3.txt_mlp.2",
    "diffusion_model.single_blocks.0.linear1",
    "diffusion_model.img_in",
    "diffusion_model.final_layer.adaLN_modulation.1",
]


def factors(text: str, modules: list[str]) -> list[float]:
    of = BlockStrengths.parse(text).over(modules)
    return [of(module) for module in modules]


def test_groups_are_read_off_the_models_names():
    assert block_groups(UNET) == {
        "IN": ("input_blocks", {0, 1, 11}),
        "MID": ("middle_block", {1}),
        "OUT": ("output_blocks", {1}),
    }
    assert list(block_groups(FLUX)) == ["DOUBLE", "SINGLE"]
    assert block_groups(["blocks.0.self_attn.q"]) == {"BLOCKS": ("blocks", {0})}
    diffusers = ["down_blocks.0.resnets.0.conv1", "mid_block.attentions.0.proj_in", "up_blocks.1.resnets.0.conv1"]
    assert list(block_groups(diffusers)) == ["IN", "MID", "OUT"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [1] * 8),
        ("IN:0.2, MID:0.3\nOUT=0.5", [0.2, 0.2, 0.2, 0.3, 0.5, 1, 1, 1]),
        ("ALL:0, IN1:1", [0, 1, 0, 0, 0, 0, 0, 0]),
        ("IN0:0", [0, 1, 1, 1, 1, 1, 1, 1]),
        ("IN2-11:0", [1, 1, 0, 1, 1, 1, 1, 1]),
        ("OTHER:0", [1, 1, 1, 1, 1, 0, 0, 0]),
        ("*attn1=0, in:2", [2, 2, 2, 1, 1, 1, 1, 1]),
        ("in:2; *attn1=0", [2, 0, 2, 1, 1, 1, 1, 1]),
        ("diffusion_model.input_blocks.1.1=0", [1, 0, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_the_last_entry_that_names_a_layer_counts(text, expected):
    assert factors(text, UNET) == expected


def test_patterns_take_in_what_is_below():
    assert factors("double_blocks.*.img_attn=0.5", FLUX) == [0.5, 1, 1, 1, 1]
    assert factors("DOUBLE:0, double_blocks.3:1", FLUX) == [0, 1, 1, 1, 1]


def test_a_number_does_not_name_the_blocks_that_begin_with_it():
    modules = [f"blocks.{number}.attn.q" for number in range(12)]
    assert factors("blocks.1:0", modules) == [1, 0, *[1] * 10]
    assert factors("BLOCKS1:0", modules) == [1, 0, *[1] * 10]


def test_unknown_names_are_all_named_with_those_that_exist():
    with pytest.raises(LoKrValueError) as error:
        factors("IN:1, DOUBLE:1, IN40:1, *nothing*:1", UNET)
    assert error.value.found == "DOUBLE, IN40, *nothing*"
    assert error.value.expected == "IN, MID, OUT, IN0 to IN11, OTHER, ALL"


@pytest.mark.parametrize("text", ["IN", "IN:", ":1", "IN:one", "IN:nan", "IN:inf", "IN:1:2", "=="])
def test_an_entry_that_is_none_is_shown(text):
    with pytest.raises(LoKrValueError) as error:
        BlockStrengths.parse(f"MID:1, {text}")
    assert error.value.found == text


def test_presets_can_be_read():
    assert all(BlockStrengths.parse(text).entries or not text for text in PRESETS.values())


def test_a_curve_goes_through_its_keyframes_and_jumps_where_two_meet():
    curve = Schedule(keyframes("0:0, 0.3:1, 1:0.2"))
    assert [curve.at(p) for p in (0, 0.15, 0.3, 1)] == [0, 0.5, 1, 0.2]
    jump = Schedule(keyframes("0.5:0, 0.5:1"))
    assert [jump.at(p) for p in (0, 0.4, 0.5, 1)] == [0, 0, 1, 1]
    assert Schedule().at(0.5) == 1


@pytest.mark.parametrize("ease", EASES)
@given(percent=st.floats(0, 1))
def test_every_ease_stays_between_its_keyframes(ease, percent):
    value = Schedule(((0.2, -1.0), (0.7, 2.0)), ease).at(percent)
    assert -1 <= value <= 2
    assert Schedule(((0.2, -1.0), (0.7, 2.0)), ease).at(0.2) == -1
    assert Schedule(((0.2, -1.0), (0.7, 2.0)), ease).at(0.7) == 2


@given(percent=st.floats(0, 1), start=st.floats(0, 1), length=st.floats(0, 1))
def test_outside_its_window_a_curve_is_exactly_0(percent, start, length):
    end = min(1.0, start + length)
    value = Schedule(((0.0, 3.0),), start=start, end=end).at(percent)
    assert value == (3.0 if start <= percent <= end else 0.0) or min(abs(percent - start), abs(percent - end)) <= 1e-5


@pytest.mark.parametrize("text", ["1", "a:1", "0:b", "0.5:1, 0.4:1", "-0.1:1", "1.1:1", "0:nan", "nan:0", "0:inf"])
def test_a_curve_that_is_none_is_refused(text):
    with pytest.raises(LoKrValueError):
        Schedule(keyframes(text))


@pytest.mark.parametrize(
    "numbers", [{"start": 0.6, "end": 0.5}, {"start": math.nan}, {"end": 2}, {"cond": math.inf}, {"ease": "?"}]
)
def test_numbers_that_make_no_schedule_are_refused(numbers):
    with pytest.raises(LoKrValueError):
        Schedule(**numbers)


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=40, unique=True))
def test_steps_are_equal_parts_of_a_run_whichever_way_it_goes(sigmas):
    down = [*sorted(sigmas, reverse=True), 0.0]
    if min(a / b for a, b in zip(down, down[1:-1], strict=False)) < 1.001:
        return
    for run in (down, [-sigma for sigma in down]):
        assert [step_percent(s, run) for s in run[:-1]] == [i / (len(run) - 2) for i in range(len(run) - 1)]
        assert step_percent(run[-1], run) == 1


@given(st.floats(0.001, 0.999))
def test_noise_percent_undoes_a_hosts_function(percent):
    shift = 3.0

    def sigma(p: float) -> float:
        return 1.0 if p <= 0 else 0.0 if p >= 1 else shift * (1 - p) / (1 + (shift - 1) * (1 - p))

    assert noise_percent(sigma(percent), sigma) == pytest.approx(percent, abs=1e-9)


def test_tags():
    prompt = "a <lokr:x:0.5> b <LoKr: y/z :te=0.1:unet=-2>\n<lora:x:1> <lokr:w:1:2>"
    cleaned, tags = read_tags(prompt)
    assert cleaned == "a b\n<lora:x:1>"
    assert [(t.name, t.te, t.unet) for t in tags] == [("x", 0.5, 0.5), ("y/z", 0.1, -2.0), ("w", 1.0, 2.0)]
    assert read_tags("  as it was  ") == ("  as it was  ", [])


def test_a_tag_chooses_an_expert_by_one_word():
    _, tags = read_tags("<lokr:x:0.5:expert=low> <lokr:x: Expert = High :1:2> <lokr:x>")
    assert [(t.expert, t.te, t.unet) for t in tags] == [("low", 0.5, 0.5), ("high", 1.0, 2.0), ("", 1.0, 1.0)]


@pytest.mark.parametrize("inside", ["", ":1", "x:y", "x:nan", "x:1:1:1", "x:q=1"])
def test_a_bad_tag_is_shown(inside):
    tag = f"<lokr:{inside}>"
    with pytest.raises(LoKrValueError) as error:
        read_tags(f"a {tag} b")
    assert error.value.found == tag


def test_the_front_ends_sliders_have_the_same_limit():
    script = (PROJECT / "web/slider.js").read_text(encoding="utf-8")
    assert float(re.search(r"export const LIMIT = ([\d.]+);", script)[1]) == SLIDER_LIMIT
