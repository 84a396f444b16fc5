"""Which files a picture was made with is written into its parameters, and read back."""

from __future__ import annotations

import base64
import importlib
import io
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from tests.hosts import WebServer
from tests.webui import host_modules
from tests.webui.adapters import attention, lokr, save
from webui.applied import Use
from webui.tags import request_of

LAYERS = {"unet": attention("down_blocks.1.attentions.0", 64, 768)}


def write_lokr(path: Path, metadata: Mapping[str, str] | None = None, seed: int = 0) -> Path:
    return save(lokr(LAYERS, seed=seed), path, **(metadata or {}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models" / "LoKr"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, folder: Path):
    return host_modules.install(monkeypatch, folder.parent)


@pytest.fixture
def infotext(host):
    return importlib.import_module("webui.infotext")


@pytest.fixture
def library(infotext):
    return importlib.import_module("webui.library")


def run(**attributes) -> SimpleNamespace:
    """The host's object of a run."""
    return SimpleNamespace(extra_generation_params={}, **attributes)


def using(library, tag: str, default_mode: str = "live") -> Use:
    """A tag that is in force; the file's content is not looked at."""
    request = request_of(tag.split(":"), default_mode)
    return Use(request, library.find(request.tag.name), None)


def pasted(infotext, prompt: str, hashes: str, **fields: str) -> dict[str, str]:
    parameters = {"Prompt": prompt, infotext.FIELD: hashes, **fields}
    infotext.pasted("", parameters)
    return parameters


def test_names_as_the_prompt_says_them_with_the_hash_of_their_files(infotext, library, folder: Path):
    a = library.find(write_lokr(folder / "a.safetensors", seed=1).stem)
    b = library.find(write_lokr(folder / "b, c: d.safetensors", seed=2).stem.replace(":", "_"))
    p = run()
    infotext.write(p, [using(library, "a"), using(library, b.name)])
    hashes = f"a: {a.shorthash}, b c_ d: {b.shorthash}"
    assert p.extra_generation_params == {"LoKr hashes": hashes, "LoKr mode": "live"}


def test_a_run_without_tags_says_nothing_not_even_of_the_batch_before(infotext, library, folder: Path):
    write_lokr(folder / "a.safetensors")
    p = run()
    infotext.write(p, [using(library, "a")])
    infotext.write(p, [])
    assert p.extra_generation_params == {}


def test_hires_fix_with_a_prompt_of_its_own_adds_to_the_first_pass(infotext, library, folder: Path):
    a, b = (library.find(write_lokr(folder / f"{name}.safetensors", seed=seed).stem) for seed, name in enumerate("ab"))
    p = run(is_hr_pass=False)
    infotext.write(p, [using(library, "a")])
    p.is_hr_pass = True
    infotext.write(p, [using(library, "b:mode=merge")])
    assert p.extra_generation_params["LoKr mode"] == "live"
    assert p.extra_generation_params["LoKr hashes"] == f"a: {a.shorthash}, b: {b.shorthash}"


@pytest.mark.parametrize(
    "tags, mode",
    [
        (["a"], "merge"),
        (["a:mode=live"], None),
        (["a:mode=merge"], None),
        (["a:start=0.5"], None),  # live whatever the setting
        (["a:mode=live", "a:0.5"], "merge"),
    ],
)
def test_the_mode_is_told_for_tags_that_leave_it_to_the_setting(infotext, library, folder: Path, tags, mode):
    write_lokr(folder / "a.safetensors")
    p = run()
    infotext.write(p, [using(library, tag, "merge") for tag in tags])
    assert p.extra_generation_params.get("LoKr mode") == mode


def test_the_setting_switches_it_off(infotext, library, host, folder: Path):
    write_lokr(folder / "a.safetensors")
    host.lokr_infotext = False
    p = run()
    infotext.write(p, [using(library, "a")])
    assert p.extra_generation_params == {}


def test_a_prompt_whose_files_are_called_the_same_here_stays_as_it_is(infotext, library, folder: Path):
    write_lokr(folder / "A b.safetensors")
    said = "x <lokr:a b:0.5:0.25:mode=merge>, <lora:A b:1> <lokr:unknown:1>"
    assert pasted(infotext, said, f"a b: {library.find('A b').shorthash}, unknown: 000011112222")["Prompt"] == said


def test_a_file_that_is_called_otherwise_here_is_found_by_its_hash(infotext, library, folder: Path):
    path = write_lokr(folder / "old, name.safetensors", seed=1)
    noted = f"old name: {library.find('old, name').shorthash}"
    path.rename(folder / "new name.safetensors")
    write_lokr(folder / "old, name.safetensors", seed=2)  # and another file has its name now
    parameters = pasted(
        infotext, "<lokr:old, name:0.5>, <LoKr:old, name>", noted, **{"Hires prompt": "<lokr:old, name:1>"}
    )
    assert parameters["Prompt"] == "<lokr:new name:0.5>, <LoKr:new name>"
    assert parameters["Hires prompt"] == "<lokr:new name:1>"


def test_a_name_that_several_files_have_here_becomes_the_one_with_the_hash(infotext, library, folder: Path):
    write_lokr(folder / "style.safetensors", seed=1)
    noted = f"style: {library.find('style').shorthash}"
    write_lokr(folder.parent / "Lora" / "style.safetensors", seed=2)
    prompt = pasted(infotext, "<lokr:style:0.5>", noted)["Prompt"]
    assert library.find(prompt[6:-5]).path == folder / "style.safetensors" and "(" in prompt


@pytest.mark.parametrize("noted", ["", "nonsense", ",,:,", "a", "a:", ": 00", "a: " + "0" * 12])
def test_parameters_that_say_nothing_of_use_change_nothing(infotext, folder: Path, noted: str):
    write_lokr(folder / "a.safetensors")
    assert pasted(infotext, "<lokr:a:0.5>", noted)["Prompt"] == "<lokr:a:0.5>"
    parameters = {"Prompt": "<lokr:a:0.5>"}
    infotext.pasted("", parameters)
    assert parameters == {"Prompt": "<lokr:a:0.5>"}


def test_a_picture_whose_file_was_renamed_tells_a_prompt_that_paints_it_again(stocked: WebServer, small_host):
    models = stocked.base / "models"
    path = save(lokr(small_host.layers, seed=5), models / "LoKr/first name.safetensors")
    small = {"steps": 2, "width": 64, "height": 64, "sampler_name": "Euler", "seed": 3}
    (before,) = stocked.post("/sdapi/v1/txt2img", {"prompt": "a <lokr:first name:0.8>", **small})["images"]
    path = path.rename(models / "Lora/second, name.safetensors")
    told = stocked.post("/sdapi/v1/png-info", {"image": before})
    assert 'LoKr hashes: "first name: ' in told["info"]
    assert told["parameters"]["Prompt"] == "a <lokr:second, name:0.8>"
    (after,) = stocked.post("/sdapi/v1/txt2img", {"prompt": told["parameters"]["Prompt"], **small})["images"]
    path.unlink()
    assert pixels(after) == pixels(before)


def pixels(image: str) -> bytes:
    return Image.open(io.BytesIO(base64.b64decode(image))).tobytes()
