"""The routes under /lokr/ of a real ComfyUI server: what they say, and what they do with requests that mean harm."""

from __future__ import annotations

import json
import time

import pytest
from safetensors.torch import save_file

from lokr_core.cli import main as lokr_command
from tests.comfyui.routes import FLUX, PNG, ask, info, listed, refused
from tests.comfyui.test_server import lokr

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


@pytest.fixture
def server(routes):
    return routes


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
