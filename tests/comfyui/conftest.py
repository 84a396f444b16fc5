"""The server of the tests of routes, one for them all."""

from __future__ import annotations

import pytest
from safetensors.torch import save_file

from tests.comfyui.routes import FLUX, PNG, make_harm
from tests.comfyui.test_server import LAYERS, lokr, lora


@pytest.fixture(scope="session")
def routes(comfyui, tmp_path_factory):
    base, outside = tmp_path_factory.mktemp("routes"), tmp_path_factory.mktemp("outside")
    loras = base / "models/loras"
    (loras / "folder").mkdir(parents=True)
    metadata = {
        "ss_base_model_version": "sd_1.5",
        "modelspec.trigger_phrase": "sks cat, oil paint",
        "modelspec.title": "A <b>style</b>",
    }
    save_file(lokr(LAYERS, 0), str(loras / "style.safetensors"), metadata)
    save_file(lokr(FLUX, 1), str(loras / "folder/flux.safetensors"))
    save_file(lora({name: shape for name, shape in LAYERS.items() if len(shape) == 2}), str(loras / "lora.safetensors"))
    (loras / "style.png").write_bytes(PNG)
    make_harm(loras, outside)
    with comfyui.serve(base) as running:
        yield running
