"""What lies beside an adapter, as the routes of a real ComfyUI server tell it: sidecars, previews, the kept list."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3

import pytest
import torch
from safetensors.torch import save_file

from tests.comfyui.routes import FLUX, PNG, SECRET, info, listed, post, refused
from tests.comfyui.test_server import lokr


@pytest.fixture
def server(routes):
    return routes


def test_a_file_that_is_put_there_is_listed_without_a_refresh(server):
    path = server.base / "models/loras/folder/new.safetensors"
    save_file(lokr(FLUX, 5), str(path))
    assert listed(server)["folder/new.safetensors"]["base_model"] == "Flux.1"
    path.unlink()
    assert "folder/new.safetensors" not in listed(server)


def test_the_list_is_kept_on_disk_by_path_size_and_time(server):
    listed(server)
    with sqlite3.connect(server.base / "user/lokr_index.sqlite") as kept:
        before = dict(kept.execute("SELECT path, version FROM briefs_1"))
    path = server.base / "models/loras/style.safetensors"
    assert str(path) in before
    os.utime(path)
    assert listed(server)["style.safetensors"]["kind"] == "LoKr"
    with sqlite3.connect(server.base / "user/lokr_index.sqlite") as kept:
        after = dict(kept.execute("SELECT path, version FROM briefs_1"))
    assert {name for name in before if after.get(name) != before[name]} == {str(path)}


@pytest.fixture
def beside(server):
    """Writes files beside style.safetensors, and removes them."""
    written = []

    def write(name: str, data: bytes) -> None:
        written.append(server.base / "models/loras" / name)
        written[-1].write_bytes(data)

    yield write
    for path in written:
        path.unlink(missing_ok=True)


def test_sidecars_are_read_as_text_and_nothing_in_them_is_followed(server, beside):
    lora_manager = {
        "model_name": "Style <img src=x onerror=alert(1)>",
        "notes": "<b>strong</b>",
        "usage_tips": '{"strength": 0.8}',
        "civitai": {"trainedWords": ["oil, sks", "wide"]},
        "preview_url": "../../outside.png",
    }
    beside("style.metadata.json", json.dumps(lora_manager).encode())
    beside("style.civitai.info", b"[" * 100_000)
    found = info(server, "style.safetensors")["sidecar"]
    assert found["trigger_words"] == ["oil", "sks", "wide"]
    assert (found["strength"], found["notes"], found["read"]) == (0.8, "<b>strong</b>", ["style.metadata.json"])
    assert "preview_url" not in json.dumps(found)
    assert listed(server)["style.safetensors"]["trigger_words"] == ["oil", "sks", "wide"]


def test_a_sidecar_that_is_a_link_out_of_the_folder_is_not_read(server, tmp_path):
    (tmp_path / "secret.json").write_text(json.dumps({"notes": SECRET}))
    link = server.base / "models/loras/style.json"
    link.symlink_to(tmp_path / "secret.json")
    assert info(server, "style.safetensors")["sidecar"]["read"] == []
    link.unlink()


def test_the_hash_is_that_of_the_file(server):
    path = server.base / "models/loras/folder/flux.safetensors"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert server.get("/lokr/hash?name=folder/flux.safetensors") == {"sha256": digest, "autov2": digest[:10]}
    refused(server, "/lokr/hash?name=../style.safetensors")


def test_a_file_at_hand_is_found_by_name_size_and_header(server):
    path = server.base / "models/loras/folder/flux.safetensors"
    data = path.read_bytes()
    header = data[: 8 + int.from_bytes(data[:8], "little")]
    query = f"/lokr/find?name=flux.safetensors&size={len(data)}"
    assert post(server, query, header) == (200, {"name": "folder/flux.safetensors"})
    assert post(server, query, header[:-1] + b" ")[0] == 404
    assert post(server, query + "1", header)[0] == 404


@pytest.fixture
def made(server):
    """A picture that ComfyUI has made."""
    (server.base / "output/sub").mkdir(parents=True, exist_ok=True)
    (server.base / "output/sub/made.png").write_bytes(PNG + b"made")
    return {"filename": "made.png", "subfolder": "sub", "type": "output"}


def test_a_preview_is_written_beside_its_file_and_over_none_unasked(server, made):
    path = server.base / "models/loras/folder/flux.png"
    query = "/lokr/preview?name=folder/flux.safetensors"
    assert post(server, query, json.dumps(made).encode()) == (200, {"preview": "flux.png"})
    assert path.read_bytes() == PNG + b"made"
    path.write_bytes(PNG)
    assert post(server, query, json.dumps(made).encode())[0] == 409
    assert path.read_bytes() == PNG
    assert post(server, query, json.dumps({**made, "replace": True}).encode())[0] == 200
    assert path.read_bytes() == PNG + b"made"
    path.unlink()


@pytest.mark.parametrize(
    "asked",
    [
        {"filename": "../models/loras/style.png", "subfolder": "", "type": "output"},
        {"filename": "made.png", "subfolder": "../output/sub/../../models/loras", "type": "output"},
        {"filename": "/etc/passwd", "subfolder": "", "type": "output"},
        {"filename": "made.png", "subfolder": "sub", "type": "models"},
        {"filename": "jobs.json", "subfolder": "..", "type": "output"},
        {"subfolder": "sub"},
        [],
    ],
)
def test_no_other_picture_becomes_a_preview(server, made, asked):
    status, answer = post(server, "/lokr/preview?name=folder/flux.safetensors", json.dumps(asked).encode())
    assert status in (400, 404, 422) and answer["error"]
    assert not (server.base / "models/loras/folder/flux.png").exists()


def test_a_form_of_another_site_writes_no_preview(server, made):
    status, _ = post(server, "/lokr/preview?name=folder/flux.safetensors", json.dumps(made).encode(), "text/plain")
    assert status == 415


def test_the_base_model_of_a_model_file_is_told(server, comfyui):
    path = server.base / "models/checkpoints/tiny.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    names = (
        *("double_blocks.0.img_attn.qkv", "double_blocks.0.img_mod.lin", "single_blocks.0.linear1"),
        *("vector_in.in_layer", "img_in"),
    )
    save_file({f"model.diffusion_model.{name}.weight": torch.zeros(4, 4) for name in names}, str(path))
    assert server.get("/lokr/model?folder=checkpoints&name=tiny.safetensors") == {"base_models": ["Flux.1"]}
    refused(server, "/lokr/model?folder=loras&name=style.safetensors")
    refused(server, "/lokr/model?folder=checkpoints&name=../loras/style.safetensors")
