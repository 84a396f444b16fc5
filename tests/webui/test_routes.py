"""``GET /lokr/v1/adapters`` and ``GET /lokr/v1/report`` of a real server."""

from __future__ import annotations

import json
import urllib.error

import pytest

from tests.hosts import WebServer
from tests.webui.adapters import SD15, lokr, save
from tests.webui.conftest import SmallHost


def refused(server: WebServer, name: str) -> tuple[int, dict]:
    with pytest.raises(urllib.error.HTTPError) as error:
        server.get("/lokr/v1/report", name=name)
    return error.value.code, json.loads(error.value.read())["detail"]


def test_the_list_is_of_the_lokr_files_as_they_are_now(stocked: WebServer, small_host: SmallHost):
    listed = {adapter["name"]: adapter for adapter in stocked.get("/lokr/v1/adapters")}
    assert set(listed) == {"ink", "night [v2] (final)", "été 水彩"}
    ink = listed["ink"]
    assert (ink["alias"], ink["file"], ink["base_model"]) == ("ink_drawing", "ink.safetensors", "Stable Diffusion 1.x")
    assert (ink["kind"], ink["lokr_modules"], ink["trigger_words"]) == ("LoKr", small_host.modules, ["ink drawing"])
    assert listed["night [v2] (final)"]["file"] == "styles/night [v2] (final).safetensors"
    new = save(lokr({"te": SD15["te"]}, seed=6), stocked.base / "models/LoKr/new.safetensors")
    assert "new" in [adapter["name"] for adapter in stocked.get("/lokr/v1/adapters")]
    new.unlink()
    assert "new" not in [adapter["name"] for adapter in stocked.get("/lokr/v1/adapters")]


@pytest.mark.parametrize("name", ["ink", "ink_drawing", "INK", "night [v2] (final)", "été 水彩"])
def test_the_report_is_on_the_loaded_model(stocked: WebServer, small_host: SmallHost, headline: str, name: str):
    report = stocked.get("/lokr/v1/report", name=name)
    assert report["headline"] == headline
    in_unet = [module["where"].startswith("model.diffusion_model.") for module in report["modules"]]
    assert [in_unet.count(True), in_unet.count(False)] == [len(small_host.layers[part]) for part in ("unet", "te")]
    assert report["applied"] == len(in_unet)
    assert str(stocked.base) not in json.dumps(report)


def test_a_file_of_another_model_is_refused_module_by_module(stocked: WebServer):
    layers = {"unet": {"down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k": (640, 2048)}}
    path = save(lokr(layers), stocked.base / "models/LoKr/for sdxl.safetensors")
    report = stocked.get("/lokr/v1/report", name="for sdxl")
    assert (report["applied"], report["refused"], report["base_model"]) == (0, 1, "SDXL")
    assert report["modules"][0]["reason"]
    path.unlink()


def test_an_unknown_name_is_answered_with_near_ones(stocked: WebServer):
    code, detail = refused(stocked, "inc")
    assert code == 404 and detail["near"] == ["ink"]


def test_other_and_broken_files_are_said_to_be(stocked: WebServer):
    code, detail = refused(stocked, "a lora")
    assert code == 422 and "no LoKr in this file" in detail["error"] and "LoRA" in detail["error"]
    code, detail = refused(stocked, "broken")
    assert code == 422 and "truncated" in detail["error"] and str(stocked.base) not in detail["error"]


@pytest.mark.parametrize("name", ["../LoKr/ink", "/etc/passwd", "..", "a\0b", "", "models/LoKr/ink.safetensors"])
def test_no_name_leads_out_of_the_model_folders(stocked: WebServer, name: str):
    code, detail = refused(stocked, name)
    assert code == 404 and "no LoKr of this name" in detail["error"]
