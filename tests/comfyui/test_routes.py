"""The routes under /lokr/ of a real ComfyUI server: what they say, and what they do with requests that mean harm."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import sqlite3
import struct
import time
from urllib.parse import quote, urlsplit

import pytest
import torch
from safetensors.torch import save_file

from lokr_core.cli import main as lokr_command
from tests.comfyui.test_server import LAYERS, lokr, lora

SECRET = "what-lies-outside"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 64
FLUX = {
    f"lora_unet_{block}_{number}_{layer}": (256, 256)
    for block, layer in (("double_blocks", "img_attn_proj"), ("single_blocks", "linear2"))
    for number in (3, 7)
}


@pytest.fixture(scope="module")
def server(comfyui, tmp_path_factory):
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
    _make_harm(loras, outside)
    with comfyui.serve(base) as running:
        yield running


def _make_harm(loras, outside) -> None:
    """Files that a person may have been given."""
    (outside / "secret.txt").write_text(SECRET * 10)
    (outside / "secret.png").write_bytes(PNG + SECRET.encode())
    (outside / "text.safetensors").write_text(SECRET * 10)
    (loras / "link.safetensors").symlink_to(outside / "secret.txt")
    (loras / "dangling.safetensors").symlink_to(outside / "nothing")
    (loras / "away").symlink_to(outside, target_is_directory=True)
    (loras / "link.png").symlink_to(outside / "secret.png")
    (loras / "secret.txt").write_text(SECRET)
    (loras / "pickle.ckpt").write_bytes(b"\x80\x04" + SECRET.encode())
    (loras / "pickle.safetensors").write_bytes(b"\x80\x04" + SECRET.encode() * 9)
    (loras / "empty.safetensors").write_bytes(b"")
    (loras / "long-header.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{")
    huge = b'{"__metadata__":{"a":"' + b"x" * 20_000_000 + b'"}}'
    (loras / "huge-header.safetensors").write_bytes(struct.pack("<Q", len(huge)) + huge)
    (loras / "no-json.safetensors").write_bytes(struct.pack("<Q", 9) + b'{"a": nul')
    deep = b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    (loras / "deep.safetensors").write_bytes(struct.pack("<Q", len(deep)) + deep)
    axes = json.dumps({"a.lokr_w1": {"dtype": "F32", "shape": [1] * 3000, "data_offsets": [0, 4]}}).encode()
    (loras / "axes.safetensors").write_bytes(struct.pack("<Q", len(axes)) + axes + b"\0" * 4)
    broken = {"a.lokr_w1": torch.ones(2, 2), "a.lokr_w2": torch.full((2, 2), float("nan"))}
    save_file(broken, str(loras / "nan.safetensors"))
    for name, size in (("large", 9 << 30), ("large-picture", 1)):
        with (loras / f"{name}.safetensors").open("wb") as file:
            file.truncate(size)
    for name in ("text-picture", "large-picture"):
        (loras / f"{name}.safetensors").write_bytes((loras / "style.safetensors").read_bytes())
    (loras / "text-picture.png").write_text(SECRET)
    with (loras / "large-picture.png").open("wb") as file:
        file.write(PNG)
        file.truncate(40 << 20)
    os.mkfifo(loras / "pipe.safetensors")


# What is asked for as ?name=, as it stands in the address.
NAMES = [
    "",
    "nothing.safetensors",
    "../style.safetensors",
    "../../models/loras/style.safetensors",
    "folder/../style.safetensors",
    "./style.safetensors",
    "folder//flux.safetensors",
    "style.safetensors/",
    "/style.safetensors",
    "/etc/passwd",
    "../../../../../../etc/passwd",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "..%252f..%252fetc%252fpasswd",
    "..%5c..%5cetc%5cpasswd",
    "..%c0%af..%c0%afetc/passwd",
    "%2fetc%2fpasswd",
    "file:///etc/passwd",
    "C:%5cWindows%5cwin.ini",
    "%5c%5chost%5cshare%5cstyle.safetensors",
    "style.safetensors%00",
    "style.safetensors%00.png",
    "%00",
    "secret.txt%00.safetensors",
    "secret.txt",
    "pickle.ckpt",
    "style",
    "style.png",
    "folder",
    ".",
    "..",
    "~/.ssh/id_rsa",
    "%E2%80%AE.safetensors",
    "%ff%fe.safetensors",
    "a" * 300 + ".safetensors",
    "a/" * 1500 + ".safetensors",
    "%2e%2e/" * 500 + "etc/passwd",
    "*.safetensors",
    "style.safetensors;id",
    "$(id).safetensors",
    "style.safetensors%0d%0aX-Header:1",
    "link.safetensors",
    "dangling.safetensors",
    "away/secret.txt",
    "away/text.safetensors",
    "pickle.safetensors",
    "empty.safetensors",
    "long-header.safetensors",
    "huge-header.safetensors",
    "no-json.safetensors",
    "deep.safetensors",
    "axes.safetensors",
    "nan.safetensors",
    "large.safetensors",
    "pipe.safetensors",
]


def ask(server, path: str) -> tuple[int, dict, bytes]:
    """A request with the path as it stands: no client that tidies it up."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    connection.putrequest("GET", path, skip_accept_encoding=True)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


def info(server, name: str) -> dict:
    status, _, body = ask(server, f"/lokr/info?name={quote(name)}")
    assert status == 200, body
    return json.loads(body)


def refused(server, path: str) -> dict:
    status, headers, body = ask(server, path)
    assert 400 <= status < 500, (path[:100], status, body[:300])
    assert headers["Content-Type"].startswith("application/json")
    assert SECRET.encode() not in body and b"root:" not in body
    assert server.base.as_posix().encode() not in body, "the answer tells where the user's files are"
    return json.loads(body)


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:40])
def test_what_is_no_adapter_that_the_nodes_offer_is_refused(server, name):
    assert len(NAMES) >= 50
    assert refused(server, f"/lokr/info?name={name}")["error"]
    assert server.get("/lokr/adapters")["adapters"]


@pytest.mark.parametrize(
    "name",
    ["../style", "link.safetensors", "text-picture.safetensors", "large-picture.safetensors", "lora.safetensors"],
)
def test_a_picture_that_is_none_or_lies_outside_is_refused(server, name):
    refused(server, f"/lokr/preview?name={name}")


@pytest.mark.parametrize("path", ["/lokr/info", "/lokr/preview", "/lokr/info?name", "/lokr/blocks?architecture=../x"])
def test_what_is_asked_for_has_to_be_said(server, path):
    refused(server, path)


def listed(server) -> dict[str, dict]:
    """The adapters by name, once all are read; a first answer has those that were read within 0.3 s."""
    answer = server.get("/lokr/adapters")
    found = {entry["name"]: entry for entry in answer["adapters"]}
    while answer["reading"]:
        answer = server.get(f"/lokr/adapters?since={answer['position']}")
        found |= {entry["name"]: entry for entry in answer["adapters"]}
    return found


def test_the_list_names_every_file_and_what_it_is(server):
    found = listed(server)
    style, flux, plain = found["style.safetensors"], found["folder/flux.safetensors"], found["lora.safetensors"]
    assert (style["kind"], style["base_model"], style["has_preview"]) == ("LoKr", "Stable Diffusion 1.x", True)
    assert (style["title"], style["trigger_words"], style["is_lokr"]) == (
        "A <b>style</b>",
        ["sks cat", "oil paint"],
        True,
    )
    assert (flux["base_model"], flux["has_preview"]) == ("Flux.1", False)
    assert (plain["kind"], plain["is_lokr"]) == ("LoRA", False)
    assert (found["no-json.safetensors"]["kind"], found["no-json.safetensors"]["is_lokr"]) == ("unreadable", False)
    assert "not" in found["no-json.safetensors"]["problem"]
    assert found["link.safetensors"]["problem"] == "This is a link to a file that is not a .safetensors"
    assert found["large.safetensors"]["size"] == 9 << 30
    assert "pipe.safetensors" not in found and "dangling.safetensors" not in found


def test_info_has_the_numbers_of_the_command(server, capsys):
    for name in ("style.safetensors", "folder/flux.safetensors"):
        found = info(server, name)
        assert lokr_command(["inspect", str(server.base / "models/loras" / name), "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert found["heat"] == {key: said["heat"][key] for key in ("rows", "columns", "values")}
        assert found["blocks"] == said["heat"]["blocks"]
        assert [factor["norm"] for factor in found["factors"]] == [module["norm"] for module in said["modules"]]


def test_info_answers_what_people_ask(server):
    found = info(server, "style.safetensors")
    assert found["trigger_words"] == ["sks cat", "oil paint"]
    assert (found["kind"], found["modules"], found["title"]) == ("LoKr", 4, "A <b>style</b>")
    assert found["factors"][0]["w1"] == "8×8" and found["factors"][0]["rank"] == 4


def test_the_heat_map_of_a_few_blocks_shows_those_blocks(server):
    found = info(server, "folder/flux.safetensors")
    assert found["heat"]["rows"] == ["DOUBLE3", "DOUBLE7", "SINGLE3", "SINGLE7"]
    groups = {group["name"]: group["blocks"] for group in found["layout"]["groups"]}
    assert len(groups["DOUBLE"]) == 19 and len(groups["SINGLE"]) == 38
    assert "Flux: double blocks only" in {preset["name"] for preset in found["layout"]["presets"]}


def test_what_is_no_lokr_is_told_all_the_same(server):
    found = info(server, "lora.safetensors")
    assert (found["kind"], found["factors"]) == ("LoRA", [])


def test_a_picture_beside_the_file(server):
    status, headers, body = ask(server, "/lokr/preview?name=style.safetensors")
    assert (status, headers["Content-Type"], body) == (200, "image/png", PNG)
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_layouts(server):
    found = server.get("/lokr/blocks?architecture=SDXL")
    assert [(group["name"], len(group["blocks"])) for group in found["groups"]] == [
        ("IN", 9), ("MID", 3), ("OUT", 9), ("OTHER", 1)
    ]  # fmt: skip
    assert "SDXL" in server.get("/lokr/blocks")["architectures"]


def test_a_file_that_has_changed_is_read_anew(server):
    path = server.base / "models/loras/changing.safetensors"
    save_file(lokr(FLUX, 1), str(path))
    first = info(server, "changing.safetensors")["blocks"]
    save_file(lokr(FLUX, 2), str(path))
    assert info(server, "changing.safetensors")["blocks"] != first
    path.unlink()
    refused(server, "/lokr/info?name=changing.safetensors")


def test_a_thousand_modules_take_a_second_and_the_server_answers_meanwhile(server):
    layers = {f"lora_unet_double_blocks_{n}_{layer}": (3072, 3072) for n in range(250) for layer in "abcd"}
    save_file(lokr(layers, 3, factor=16, rank=8), str(server.base / "models/loras/thousand.safetensors"))
    begun = time.perf_counter()
    assert info(server, "thousand.safetensors")["modules"] == 1000
    # A second is the aim on a quiet machine (benchmarks); a busy one must not fail for it.
    assert time.perf_counter() - begun < 10


def post(server, path: str, body: bytes, kind: str = "application/json") -> tuple[int, dict]:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    connection.request("POST", path, body, {"Content-Type": kind})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


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
