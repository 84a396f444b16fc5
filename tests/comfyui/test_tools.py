"""LoKr Inspect, LoKr Strength Grid and LoKr Save in a real ComfyUI server, over HTTP as its page does it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lokr_core import load_adapter
from lokr_core.inspection import inspect_adapter
from tests.comfyui import test_server as single
from tests.comfyui.test_nodes import error_of, near, stack
from tests.comfyui.test_server import image, loader, lokr, server  # noqa: F401  (server is a fixture)

STYLE, OTHER = "style.safetensors", "other.safetensors"
CHECKPOINT = {"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15-float16.safetensors"}}}


def outputs_of(server, prompt: dict) -> dict:  # noqa: F811
    history = server.run(prompt)
    assert history["status"]["status_str"] == "success", history["status"]["messages"][-1]
    return history["outputs"]


def picture(server, shown: dict) -> np.ndarray:  # noqa: F811
    """The first picture of a node's output."""
    place = shown["images"][0]
    with Image.open(server.base / place["type"] / place["subfolder"] / place["filename"]) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_every_loader_tells_its_report_to_the_page(server):  # noqa: F811
    outputs = outputs_of(server, single.workflow(loader(STYLE, 0.31), loader("partial.safetensors", 0.31, mode="live")))
    (style,), (partial,) = outputs["20"]["lokr_report"], outputs["21"]["lokr_report"]
    assert (style["applied"], style["found"], style["total"], style["mode"], style["level"]) == (4, 4, 4, "merge", "ok")
    assert (partial["found"], partial["total"], partial["mode"], partial["level"]) == (4, 5, "live", "warn")
    (reason,) = partial["reasons"]
    assert (reason["reason"], reason["count"]) == ("no such weight in this model", 1)
    assert reason["examples"] == ["lora_unet_double_blocks_0_img_attn_qkv"]
    rows = outputs_of(server, single.workflow(stack((True, STYLE, 0.0), (True, OTHER, 0.32))))["20"]["lokr_report"]
    assert [(row["file"], row["applied"], row["found"]) for row in rows] == [(STYLE, 0, 4), (OTHER, 4, 4)]


def test_inspect_shows_the_files_blocks_as_text_and_picture(server):  # noqa: F811
    shown = outputs_of(server, {"1": {"class_type": "LoKrInspect", "inputs": {"lokr_name": STYLE}}})["1"]
    expected = inspect_adapter(load_adapter(server.base / "models/loras" / STYLE))
    assert shown["text"] == [expected.text()]
    seen = picture(server, shown)
    assert seen.shape[2] == 3 and len(np.unique(seen.reshape(-1, 3), axis=0)) > 4


def test_inspect_with_a_model_tells_shares_of_its_weights_and_what_matches(server):  # noqa: F811
    inputs = {"lokr_name": "partial.safetensors", "model": ["1", 0], "clip": ["1", 1]}
    alone = {"2": {"class_type": "LoKrInspect", "inputs": {"lokr_name": "partial.safetensors"}}}
    outputs = outputs_of(server, {**CHECKPOINT, "3": {"class_type": "LoKrInspect", "inputs": inputs}, **alone})
    assert "no such weight in this model" in outputs["3"]["text"][0]
    assert not np.array_equal(picture(server, outputs["3"]), picture(server, outputs["2"]))


def grid(**inputs) -> dict:
    """A grid of style (and other) at the sampler of test_server, its cells and the picture of all saved."""
    prompt = single.workflow()
    prompt["20"] = {"class_type": "LoKrStrengthGrid", "inputs": {"model": ["1", 0], "x_lokr": STYLE, **inputs}}
    prompt["6"]["inputs"]["model"] = ["20", 0]
    prompt["30"] = {"class_type": "LoKrGridImage", "inputs": {"images": ["7", 0], "grid": ["20", 2]}}
    prompt["31"] = {"class_type": "SaveImage", "inputs": {"images": ["30", 0], "filename_prefix": "grid"}}
    return prompt


def model_only(*strengths: tuple[str, float]) -> list[dict]:
    return [
        {"class_type": "LoKrLoaderModelOnly", "inputs": {"lokr_name": file, "strength_model": s, "mode": "merge"}}
        for file, s in strengths
    ]


def test_a_grid_has_the_picture_of_each_strength_in_its_place(server):  # noqa: F811
    inputs = {"x_strengths": "0, 1", "y_lokr": OTHER, "y_strengths": "0, 0.7", "mode": "live"}
    outputs = outputs_of(server, grid(**inputs))
    assert len(outputs["8"]["images"]) == 4
    seen = picture(server, outputs["31"])
    height, width = 64, 64
    left, top = seen.shape[1] - 2 * width, seen.shape[0] - 2 * height
    for row, column, strengths in ((0, 0, ()), (0, 1, ((STYLE, 1.0),)), (1, 1, ((STYLE, 1.0), (OTHER, 0.7)))):
        at = top + row * height, left + column * width
        cell = seen[at[0] : at[0] + height, at[1] : at[1] + width]
        assert near(cell, image(server, *model_only(*strengths))), (row, column)
    assert (seen[:top] == 0).any(), "there are no labels"


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"x_strengths": "0, much"}, "numbers such as"),
        ({"x_strengths": ""}, "No strengths given"),
        ({"x_strengths": "0:1:0.001"}, "endless or too long"),
        ({"x_strengths": "0:1:0.1", "y_lokr": OTHER, "y_strengths": "0:1:0.1"}, "too many images"),
        ({"x_strengths": "1", "x_lokr": "stlye.safetensors"}, "near: style.safetensors"),
    ],
)
def test_a_grid_that_is_none_is_told_before_anything_runs(server, inputs, said):  # noqa: F811
    answer = server.queue(grid(**{"y_lokr": "none", "y_strengths": "0", **inputs}))
    assert "prompt_id" not in answer and said in json.dumps(answer, ensure_ascii=False)


def saved(server, *loaders: dict, **inputs) -> tuple[str, str]:  # noqa: F811
    """(the saved file's name as the loaders offer it, the node's text)."""
    prompt = single.workflow(*loaders)
    last = str(19 + len(loaders))
    inputs = {"model": [last, 0], "filename_prefix": "loras/saved", **inputs}
    if loaders[-1]["class_type"] != "LoKrLoaderModelOnly":
        inputs["clip"] = [last, 1]
    prompt = {key: node for key, node in prompt.items() if int(key) in (1, *range(20, 30))}
    prompt["40"] = {"class_type": "LoKrSave", "inputs": inputs}
    text = outputs_of(server, prompt)["40"]["text"][0]
    return text.partition(":")[0].removeprefix("loras/"), text


@pytest.mark.parametrize("mode", ["merge", "live"])
def test_one_adapter_saved_is_that_adapter_at_its_strength(server, mode):  # noqa: F811
    name, text = saved(server, loader(STYLE, 0.5, 0.8, mode=mode))
    assert "4 modules as they are" in text
    written = load_adapter(server.base / "output/loras" / name)
    for module, weights in load_adapter(server.base / "models/loras" / STYLE).items():
        strength = 0.8 if module.startswith("lora_te") else 0.5
        assert torch.allclose(written[module].delta(), weights.delta() * strength, rtol=1e-5, atol=1e-6)
        assert written[module].rank == weights.rank


def test_several_adapters_saved_as_one_give_their_image(server):  # noqa: F811
    chain = loader(STYLE, 0.6), loader(OTHER, -0.4)
    name, text = saved(server, *chain)
    assert "4 as full differences" in text
    assert near(image(server, loader(name, 1.0)), image(server, *chain))
    assert near(image(server, loader(name, 1.0, mode="live")), image(server, *chain))


def test_the_nearest_lokr_is_a_choice_and_tells_its_error(server):  # noqa: F811
    name, text = saved(server, loader(STYLE, 0.6), loader(OTHER, -0.4), overlap="nearest LoKr")
    assert "as the nearest LoKr, off by" in text
    assert (server.base / "output/loras" / name).stat().st_size < 200_000


def test_blocks_strengths_and_a_rows_switch_are_in_the_file(server):  # noqa: F811
    prompt = single.workflow(stack((True, STYLE, 1.0), (False, OTHER, 1.0), blocks=["50", 0]))
    prompt["50"] = {"class_type": "LoKrBlockStrengths", "inputs": {"preset": "none", "strengths": "IN:0, MID:0.25"}}
    inputs = {"model": ["20", 0], "clip": ["20", 1], "filename_prefix": "loras/blocks"}
    prompt["40"] = {"class_type": "LoKrSave", "inputs": inputs}
    text = outputs_of(server, prompt)["40"]["text"][0]
    written = load_adapter(server.base / "output" / text.partition(":")[0])
    whole = load_adapter(server.base / "models/loras" / STYLE)
    middle = "lora_unet_mid_block_resnets_0_conv1"
    assert set(whole) - set(written) == {"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"}
    assert torch.allclose(written[middle].delta(), whole[middle].delta() * 0.25, rtol=1e-5, atol=1e-6)


def test_formats_and_dtypes(server):  # noqa: F811
    name, _ = saved(server, loader(STYLE, 1.0), format="comfyui", dtype="bf16")
    tensors = load_file(server.base / "output/loras" / name)
    assert "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.lokr_w1" in tensors
    assert {tensor.dtype for key, tensor in tensors.items() if not key.endswith("alpha")} == {torch.bfloat16}
    assert near(image(server, loader(name, 1.0)), image(server, loader(STYLE, 1.0)))


def test_what_other_nodes_patched_is_said_to_be_missing(server):  # noqa: F811
    _, text = saved(server, single.core_lora(0.5), loader(STYLE, 0.5))
    assert "patches of other nodes" in text


@pytest.mark.parametrize(
    ("loaders", "inputs", "said"),
    [
        ([loader(STYLE, 0.0, 0.0)], {}, "nothing to save"),
        ([loader(STYLE, 0.5)], {"filename_prefix": "../../away"}, "outside the output folder"),
        ([loader(STYLE, 0.5), loader(OTHER, 0.5)], {"overlap": "refuse"}, "their sum is not a LoKr"),
        ([loader("dora.safetensors", 0.5)], {}, "DoRA can't be added up"),
    ],
)
def test_what_cannot_be_saved_is_an_error_on_the_node(server, loaders, inputs, said):  # noqa: F811
    one = {"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": (320, 320)}
    dora = {f"{next(iter(one))}.dora_scale": torch.ones(320, 1)}
    save_file({**lokr(one, 7), **dora}, str(server.base / "models/loras/dora.safetensors"))
    prompt = single.workflow(*loaders)
    last = str(19 + len(loaders))
    prompt["40"] = {
        "class_type": "LoKrSave",
        "inputs": {"model": [last, 0], "clip": [last, 1], "filename_prefix": "loras/no", **inputs},
    }
    assert said in error_of(server, prompt)["exception_message"]
    assert not list((server.base / "output").glob("loras/no_*"))
