"""Modes, stack, blocks, schedule and prompt tags in a real ComfyUI server, over HTTP as its page does it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.comfyui import test_server as single
from tests.comfyui.test_server import image, loader, outcome, server  # noqa: F401  (server is a fixture)

STYLE, OTHER = "style.safetensors", "other.safetensors"


def stack(*rows: tuple, **inputs) -> dict:
    """rows: (on, file, strength[, clip strength]). As the front end sends it: each row's inputs below the last's."""
    prefix = ""
    for number, (on, file, strength, *clip) in enumerate(rows, 1):
        if number > 1:
            inputs[f"{prefix}row_{number}"] = "add"
            prefix += f"row_{number}."
        row = {"on": on, "lokr": file, "strength_model": strength, "strength_clip": clip[0] if clip else strength}
        inputs |= {f"{prefix}{name}_{number}": value for name, value in row.items()}
    inputs[f"{prefix}row_{len(rows) + 1}"] = "none"
    return {"class_type": "LoKrStack", "inputs": {"mode": "merge", **inputs}}


def prompt_of(*loaders: dict, extra: dict | None = None, **wires) -> dict:
    """The workflow of test_server with further nodes; ``wires`` are inputs of the last loader that come from them."""
    prompt = single.workflow(*loaders)
    last = str(19 + len(loaders))
    prompt[last]["inputs"] |= wires
    out = 3 if prompt[last]["class_type"] == "LoKrPromptLoader" else 2
    prompt["120"] = {"class_type": "PreviewAny", "inputs": {"source": [last, out]}}
    return prompt | (extra or {})


def run(server, prompt: dict) -> tuple[np.ndarray, str, dict]:  # noqa: F811
    """(pixels, the last loader's report, all outputs)."""
    from PIL import Image

    history = server.run(prompt)
    assert history["status"]["status_str"] == "success", history["status"]["messages"][-1]
    (saved,) = history["outputs"]["8"]["images"]
    with Image.open(server.base / "output" / saved["filename"]) as picture:
        return np.asarray(picture).astype(int), history["outputs"]["120"]["text"][0], history["outputs"]


def error_of(server, prompt: dict) -> dict:  # noqa: F811
    history = server.run(prompt)
    assert history["status"]["status_str"] == "error"
    return next(body for name, body in history["status"]["messages"] if name == "execution_error")


def near(a: np.ndarray, b: np.ndarray) -> bool:
    """The same but for rounding: a step in some pixels."""
    return np.abs(a.astype(int) - b.astype(int)).max() <= 2


def blocks(text: str, preset: str = "none") -> dict:
    return {"50": {"class_type": "LoKrBlockStrengths", "inputs": {"preset": preset, "strengths": text}}}


def schedule(**inputs) -> dict:
    defaults = {"start": 0.0, "end": 1.0, "keyframes": "", "ease": "linear", "percent_of": "steps"}
    inputs = {**defaults, "cond": 1.0, "uncond": 1.0, **inputs}
    return {"51": {"class_type": "LoKrSchedule", "inputs": inputs}}


BLOCKS, SCHEDULE = {"blocks": ["50", 0]}, {"schedule": ["51", 0]}


def test_auto_merges_first_and_goes_live_once_the_strength_was_changed(server):  # noqa: F811
    file = "few-positions.safetensors"
    auto = [loader(file, s, mode="auto") for s in (0.61, 0.62, 0.62, 0.61)]
    seen = [run(server, prompt_of(one)) for one in auto]
    assert "merge: nothing was changed" in seen[0][1]
    assert "live: the strength was changed since the last run" in seen[1][1]
    assert near(seen[3][0], seen[0][0])
    assert near(seen[1][0], image(server, loader(file, 0.62)))
    assert not near(seen[1][0], image(server))


def test_auto_is_live_at_once_where_that_costs_next_to_nothing(server):  # noqa: F811
    live, report, _ = run(server, prompt_of(loader(STYLE, 0.63, mode="auto")))
    assert "live: it is estimated to cost" in report
    assert near(live, image(server, loader(STYLE, 0.63)))


def test_live_gives_the_merged_image_on_model_and_clip(server):  # noqa: F811
    merged, plain = image(server, loader(STYLE, 0.8)), image(server)
    assert not near(merged, plain)
    live, report, _ = run(server, prompt_of(loader(STYLE, 0.8, mode="live")))
    assert near(live, merged)
    assert "live: as set on the node" in report
    assert np.array_equal(image(server), plain)


def test_a_stack_is_its_rows_in_a_chain(server):  # noqa: F811
    chained = image(server, loader(STYLE, 0.7), loader(OTHER, -0.4))
    rows = (True, STYLE, 0.7), (False, "gone.safetensors", 1.0), (True, OTHER, -0.4)
    for mode in ("merge", "live"):
        seen, report, _ = run(server, prompt_of(stack(*rows, mode=mode)))
        assert near(seen, chained), mode
        assert f"row 1: {STYLE}" in report
        assert f"row 3: {OTHER}" in report
    none, report, _ = run(server, prompt_of(stack((False, STYLE, 1.0))))
    assert np.array_equal(none, image(server))
    assert report == "no row is on"
    beyond, _, _ = run(server, prompt_of(stack((True, STYLE, 1.0), (True, STYLE, 1.5))))
    assert near(beyond, image(server, loader(STYLE, 2.5)))


def test_a_row_with_a_missing_file_is_named_with_its_file(server):  # noqa: F811
    answer = server.queue(prompt_of(stack((True, STYLE, 0.7), (True, "stlye.safetensors", 1.0))))
    (refused,) = answer["node_errors"].values()
    (error,) = refused["errors"]
    assert refused["class_type"] == "LoKrStack"
    assert "Row 2 (stlye.safetensors): There is no such adapter file" in error["details"]
    assert f"near: {STYLE}" in error["details"]


@pytest.mark.parametrize("mode", ["merge", "live"])
def test_block_strengths_multiply_the_loaders(server, mode):  # noqa: F811
    """style.safetensors has a layer in IN, one in MID, one in OUT."""
    full, plain = image(server, loader(STYLE, 0.8, 0.0)), image(server)
    one = loader(STYLE, 0.8, 0.0, mode)

    def seen(text: str, preset: str = "none") -> np.ndarray:
        return run(server, prompt_of(one, extra=blocks(text, preset), **BLOCKS))[0]

    assert near(seen(""), full)
    assert near(seen("ALL:0"), plain)
    assert near(seen("IN:0.5, MID:0.5, OUT:0.5"), image(server, loader(STYLE, 0.4, 0.0)))
    only_in = seen("", "UNet: input blocks only")
    assert not near(only_in, plain)
    assert near(only_in, seen("MID:0\noutput_blocks.*=0"))
    assert near(only_in, seen("ALL:0, *attn1.to_q=1"))


def test_unknown_blocks_are_named_with_those_that_exist(server):  # noqa: F811
    error = error_of(server, prompt_of(loader(STYLE), extra=blocks("IN:1, DOUBLE:0.5, OUT99:1"), **BLOCKS))
    assert error["node_type"] == "LoKrLoader"
    assert "Unknown blocks for this model: DOUBLE, OUT99" in error["exception_message"]
    assert "IN, MID, OUT" in error["exception_message"]


@pytest.mark.parametrize("text", ["IN", "IN:x", "IN:nan", ":1"])
def test_a_block_strength_that_is_none_is_shown_before_anything_runs(server, text):  # noqa: F811
    answer = server.queue(prompt_of(loader(STYLE), extra=blocks(text), **BLOCKS))
    assert "prompt_id" not in answer
    assert "Not a strength of a block" in json.dumps(answer)
    assert text in json.dumps(answer)


def test_a_schedule_forces_live_and_its_window_is_exact(server):  # noqa: F811
    one = loader(STYLE, 0.8, 0.0)  # set to merge
    whole, report, _ = run(server, prompt_of(one, extra=schedule(), **SCHEDULE))
    assert near(whole, image(server, loader(STYLE, 0.8, 0.0)))
    assert "live: a schedule changes the strength while sampling" in report
    nothing, _, _ = run(server, prompt_of(one, extra=schedule(keyframes="0:0"), **SCHEDULE))
    assert np.array_equal(nothing, image(server))
    late = run(server, prompt_of(one, extra=schedule(start=0.4), **SCHEDULE))[0]  # the second step of the two
    assert not near(late, whole)
    assert not np.array_equal(late, nothing)


BAD_CURVES = {
    "0.5:1, 0.2:0": "out of order",
    "0:nan": "finite",
    "0:1, 1.5:0": "from 0 to 1",
    "0-1": "Not a keyframe",
}


@pytest.mark.parametrize("text", BAD_CURVES)
def test_a_curve_that_is_none_is_shown_before_anything_runs(server, text):  # noqa: F811
    answer = server.queue(prompt_of(loader(STYLE), extra=schedule(keyframes=text), **SCHEDULE))
    assert "prompt_id" not in answer
    assert BAD_CURVES[text] in json.dumps(answer)


def test_a_stack_with_block_strengths_on_a_schedule(server):  # noqa: F811
    rows = (True, STYLE, 0.7, 0.0), (True, OTHER, -0.4, 0.0)
    more = blocks("MID:0.5") | schedule(keyframes="0:0.5, 1:0.5")
    seen, report, _ = run(server, prompt_of(stack(*rows), extra=more, **BLOCKS, **SCHEDULE))
    chain = stack((True, STYLE, 0.35, 0.0), (True, OTHER, -0.2, 0.0))
    assert near(seen, run(server, prompt_of(chain, extra=blocks("MID:0.5"), **BLOCKS))[0])
    assert report.count("live: a schedule") == 2


def tagged(text: str, **inputs) -> dict:
    return {"class_type": "LoKrPromptLoader", "inputs": {"prompt": text, "mode": "merge", **inputs}}


def test_tags_in_a_prompt_are_loaded_and_taken_out(server):  # noqa: F811
    prompt = prompt_of(tagged(f"a lighthouse <lokr:style:0.6:0.8> <lora:x:1>, <LOKR:{OTHER}:-0.4>dusk"))
    prompt["121"] = {"class_type": "PreviewAny", "inputs": {"source": ["20", 2]}}
    seen, report, outputs = run(server, prompt)
    assert outputs["121"]["text"] == ["a lighthouse <lora:x:1>,dusk"]
    assert near(seen, image(server, loader(STYLE, 0.8, 0.6), loader(OTHER, -0.4)))
    assert "<lokr:style:0.6:0.8>: style.safetensors" in report
    nothing, report, _ = run(server, prompt_of(tagged("a lighthouse")))
    assert np.array_equal(nothing, image(server))
    assert "has no <lokr" in report


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<lokr:style:much>", "A tag's strength is not a number: 'much'"),
        ("<lokr:style:nan>", "not a number"),
        ("<lokr:>", "names no adapter"),
        ("<lokr:style:1:1:1>", "at most two strengths"),
        ("<lokr:style:weight=1>", "Unknown option of a tag: 'weight'"),
        ("<lokr:stile:1>", "near: style.safetensors"),
    ],
)
def test_a_bad_tag_is_shown_before_anything_runs(server, text, said):  # noqa: F811
    answer = server.queue(prompt_of(tagged(f"a lighthouse {text}")))
    assert "prompt_id" not in answer
    assert said in json.dumps(answer)
    assert text in json.dumps(answer)


def test_what_is_saved_in_an_image_names_no_folder(server):  # noqa: F811
    from PIL import Image

    _, _, outputs = run(server, prompt_of(stack((True, STYLE, 0.7))))
    with Image.open(server.base / "output" / outputs["8"]["images"][0]["filename"]) as picture:
        assert STYLE in picture.info["prompt"]
        assert str(server.base) not in picture.info["prompt"]


def test_a_person_finds_the_nodes_and_their_help(server):  # noqa: F811
    for node in ("LoKrStack", "LoKrBlockStrengths", "LoKrSchedule", "LoKrPromptLoader"):
        info = server.get(f"/object_info/{node}")[node]
        assert info["category"] == "loaders/lokr"
        assert "lokr" in info["search_aliases"]
        assert info["output"]
    assert outcome(server, loader(STYLE))[1][0].startswith("4 of 4")
