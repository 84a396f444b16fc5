"""LoKr Convert, LoKr Extract and LoKr Resize in a real ComfyUI server: what they write makes the right image."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file

from lokr_core import load_adapter
from tests.comfyui import test_server as single
from tests.comfyui.test_nodes import error_of, near
from tests.comfyui.test_server import image, loader, server  # noqa: F401  (server is a fixture)
from tests.comfyui.test_tools import CHECKPOINT, STYLE, outputs_of

PARTS = {"model": ["1", 0], "clip": ["1", 1]}


def file_of(text: str) -> str:
    """The written file's name as the loaders offer it."""
    return text.partition(":")[0].removeprefix("loras/")


def run(server, node: str, more: dict | None = None, **inputs) -> str:  # noqa: F811
    """The text of the node, which writes to ``loras``."""
    prompt = {**CHECKPOINT, **(more or {}), "40": {"class_type": node, "inputs": inputs}}
    shown = outputs_of(server, prompt)["40"]
    assert shown["images"], "there is no picture of what is kept"
    return shown["text"][0]


def core_lora(name: str) -> dict:
    return {"class_type": "LoraLoader", "inputs": {"lora_name": name, "strength_model": 1.0, "strength_clip": 1.0}}


@pytest.mark.parametrize(
    "inputs",
    [
        dict(to="lora", names="kohya", rank=0, energy=1.0),
        dict(to="lora", names="comfyui", rank=0, energy=1.0, **PARTS),
        dict(to="full", names="kohya", rank=0, energy=1.0, **PARTS),
    ],
)
def test_what_is_converted_makes_the_same_image_with_cores_loader(server, inputs):  # noqa: F811
    text = run(server, "LoKrConvert", lokr_name=STYLE, filename_prefix="loras/converted", **inputs)
    assert "100% of the energy kept" in text
    assert near(image(server, core_lora(file_of(text))), image(server, loader(STYLE, 1.0)))


def test_a_rank_is_kept_to_and_too_little_is_refused(server):  # noqa: F811
    inputs = dict(lokr_name=STYLE, to="lora", names="kohya", rank=2, energy=0.99, filename_prefix="loras/small")
    prompt = {"40": {"class_type": "LoKrConvert", "inputs": inputs}}
    assert "unlike the original" in error_of(server, prompt)["exception_message"]
    text = run(server, "LoKrConvert", **inputs, lossy=True)
    tensors = load_file(server.base / "output/loras" / file_of(text))
    assert {t.shape[0] for key, t in tensors.items() if key.endswith("lora_down.weight")} == {2}


def test_a_resized_file_has_the_rank(server):  # noqa: F811
    text = run(server, "LoKrResize", lokr_name=STYLE, rank=2, energy=0.99, filename_prefix="loras/resized")
    found = load_adapter(server.base / "output/loras" / file_of(text))
    assert {weights.rank for weights in found.values()} == {2}
    assert len(found) == len(load_adapter(server.base / "models/loras" / STYLE))


def test_what_a_model_was_patched_with_is_extracted_from_it(server):  # noqa: F811
    model_only = {"class_type": "LoKrLoaderModelOnly", "inputs": {"model": ["1", 0], "lokr_name": STYLE}}
    model_only["inputs"] |= {"strength_model": 0.7, "mode": "merge"}
    inputs = dict(base=["1", 0], tuned=["20", 0], factor="8", second_factor="low-rank", rank=4, energy=0.99)
    text = run(server, "LoKrExtract", {"20": model_only}, **inputs, filename_prefix="loras/extracted")
    found = load_adapter(server.base / "output/loras" / file_of(text))
    expected = {m: w for m, w in load_adapter(server.base / "models/loras" / STYLE).items() if "unet" in m}
    assert found.keys() == expected.keys()
    for module, weights in expected.items():
        delta = 0.7 * weights.fit(found[module].fit(single.LAYERS[module]).shape).delta()
        assert (found[module].fit(single.LAYERS[module]).delta() - delta).norm() <= 0.02 * delta.norm()


def test_a_file_is_the_tuned_model_too_and_nothing_to_extract_is_told(server):  # noqa: F811
    inputs = dict(base=["1", 0], tuned_file="checkpoints/sd15-float16.safetensors", factor="8", second_factor="whole")
    node = {"class_type": "LoKrExtract", "inputs": {**inputs, "rank": 0, "energy": 0.99, "filename_prefix": "loras/no"}}
    assert "nothing to extract" in error_of(server, {**CHECKPOINT, "40": node})["exception_message"]
    assert not list((server.base / "output").glob("loras/no_*"))


WORK = {
    "LoKrConvert": dict(lokr_name=STYLE, to="full", names="kohya", rank=0, energy=1.0, **PARTS),
    "LoKrResize": dict(lokr_name=STYLE, rank=2, energy=0.99),
    "LoKrExtract": dict(base=["1", 0], tuned=["20", 0], factor="8", second_factor="whole", rank=0, energy=0.99),
}


def files(server) -> set:  # noqa: F811
    return {path for path in (server.base / "output").rglob("*") if path.is_file()}


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("node", WORK)
def test_cancel_ends_the_work_within_a_module_and_leaves_no_file(server, node, at):  # noqa: F811
    tuned = {"model": ["1", 0], "lokr_name": STYLE, "strength_model": 0.5, "mode": "merge"}
    prompt = {**CHECKPOINT, "20": {"class_type": "LoKrLoaderModelOnly", "inputs": tuned}}
    prompt["30"] = {"class_type": "TestStop", "inputs": {"at": at, "text": f"loras/stopped_{node}"}}
    prompt["40"] = {"class_type": node, "inputs": {**WORK[node], "filename_prefix": ["30", 0]}}
    before = files(server)
    history = server.run(prompt)
    assert "execution_interrupted" in [kind for kind, _ in history["status"]["messages"]]
    (told,) = [about for kind, about in history["status"]["messages"] if kind == "execution_interrupted"]
    assert told["node_type"] == node
    calls = outputs_of(server, {"1": {"class_type": "TestCalls", "inputs": {}}})["1"]["calls"]
    assert len(calls) == at and calls[-1][0] < calls[-1][1]
    assert files(server) == before
    prompt["30"]["inputs"]["at"] = 0
    assert "energy kept" in outputs_of(server, prompt)["40"]["text"][0]  # and the next run is not disturbed
