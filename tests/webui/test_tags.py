"""What a tag asks for, and what is said of one that can't be."""

from __future__ import annotations

import pytest

from lokr_core import LoKrValueError
from webui.tags import LIVE, MERGE, request_of


@pytest.mark.parametrize(
    "inside, te, unet",
    [
        ("style", 1, 1),
        ("style:0.8", 0.8, 0.8),
        ("style:0.8:0.6", 0.8, 0.6),
        ("style:te=0.5", 0.5, 0.5),
        ("style:0.8:te=0.5", 0.5, 0.5),
        ("style:0.8:unet=0", 0.8, 0),
        ("style:0.8:0.6:te=-1:unet=2", -1, 2),
    ],
)
def test_strengths_are_those_of_the_built_ins_tag(inside: str, te: float, unet: float):
    request = request_of(inside.split(":"))
    assert (request.tag.name, request.tag.te, request.tag.unet) == ("style", te, unet)


def test_the_name_is_the_first_piece_whatever_is_in_it():
    assert request_of(["a=b (v2) [x] été", "0.5"]).tag.name == "a=b (v2) [x] été"


def test_named_arguments():
    request = request_of(["style", "0.8", "blocks=IN=0.2,mid=1", "start=0.1", "end=0.9"])
    assert request.blocks.entries == (("IN", 0.2), ("mid", 1.0))
    assert (request.schedule.start, request.schedule.end, request.mode) == (0.1, 0.9, LIVE)


def test_an_expert_is_chosen_by_one_word():
    assert request_of(["style", "0.8", "expert=low", "mode=merge"]).tag.expert == "low"
    assert request_of(["style"]).tag.expert == ""


def test_the_users_mode_holds_for_tags_that_say_none():
    assert request_of(["style"], MERGE).mode == MERGE
    assert request_of(["style", "mode=live"], MERGE).mode == LIVE
    assert request_of(["style", "start=0.5"], MERGE).mode == LIVE  # merged weights can't follow the steps


@pytest.mark.parametrize(
    "inside, said",
    [
        ("", "names no adapter"),
        ("style:strong", "not a number"),
        ("style:nan", "not a number"),
        ("style:1:1:8", "two strengths"),
        ("style:dyn=8", "option of a tag: 'dyn'"),
        ("style:lbw=XYZ", "option of a tag: 'lbw'"),
        ("style:lbw=XYZ", "te, clip, unet, model, expert, blocks, start, end, mode"),
        ("style:start=2", "0 to 1"),
        ("style:start=soon", "start= is not a number"),
        ("style:start=0.2:start=0.3", "start= twice"),
        ("style:start=0.8:end=0.2", "starts before it ends"),
        ("style:mode=fast", "mode=live or mode=merge"),
        ("style:mode=merge:end=0.5", "one strength for the whole run"),
        ("style:blocks=IN:0.5", "blocks=IN=0.5"),
    ],
)
def test_a_bad_tag_is_shown_with_what_is_wrong(inside: str, said: str):
    with pytest.raises(LoKrValueError) as error:
        request_of(inside.split(":"))
    assert said in str(error.value) and f"<lokr:{inside}>" in str(error.value)
