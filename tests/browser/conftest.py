"""A real ComfyUI with its real front end in Chromium; skipped loudly where either is missing."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from safetensors.torch import save_file

from tests.comfyui.test_server import LAYERS, lokr

METADATA = {
    "ss_base_model_version": "sd_v1",
    "ss_network_module": "lycoris.kohya",
    "ss_tag_frequency": json.dumps({"10_lighthouse": {"lighthouse": 20, "storm": 12}}),
    "modelspec.title": "Lighthouses",
    "modelspec.trigger_phrase": "lghths style",
}


@pytest.fixture(scope="session")
def front_server(comfyui, tmp_path_factory):
    """A server with a random SD1.5 of two levels and a few adapters, one with a picture beside it."""
    base = tmp_path_factory.mktemp("front")
    checkpoint = base / "models/checkpoints/sd15-float16.safetensors"
    checkpoint.parent.mkdir(parents=True)
    comfyui.run(base, {"do": "make_sd15", "path": str(checkpoint), "dtype": "float16"})
    loras = base / "models/loras"
    other_model = {"lora_unet_double_blocks_0_img_attn_qkv": (768, 256)}
    save_file(lokr(LAYERS, 0), str(loras / "style.safetensors"), metadata=METADATA)
    save_file(lokr(LAYERS, 1), str(loras / "other.safetensors"))
    save_file(lokr({**LAYERS, **other_model}, 3), str(loras / "partial.safetensors"))
    save_file(lokr(other_model, 4), str(loras / "nothing.safetensors"))
    (loras / "people").mkdir()
    save_file(lokr(LAYERS, 5), str(loras / "people/face.safetensors"))
    Image.linear_gradient("L").convert("RGB").save(loras / "style.png")
    with comfyui.serve(base) as running:
        yield running


@pytest.fixture
def loras(front_server):
    """The folder of adapters; what a test puts there goes with the test."""
    folder = front_server.base / "models/loras"
    before = set(folder.rglob("*"))
    yield folder
    for path in sorted(set(folder.rglob("*")) - before, reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.fixture(scope="session", params=["LiteGraph", "Vue nodes"])
def page_of(request, browser, front_server):
    """The front end, once with each of its two ways to draw nodes: one page for all tests, which takes long to open."""
    from tests.browser.front import opened

    with opened(browser, front_server.url, vue=request.param == "Vue nodes") as page:
        yield page


@pytest.fixture
def front(request, page_of):
    """The front end with an empty workflow; an error of the pack's scripts fails the test."""
    page_of.empty()
    page_of.errors.clear()
    failed = request.session.testsfailed
    yield page_of
    if request.session.testsfailed > failed:
        page_of.reload()  # what a failed test leaves open is not the next one's
    assert not page_of.errors
