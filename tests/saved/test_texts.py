"""Texts that release 0.1.0 saved (``write_texts.py``) mean what they did: in workflows, prompts, pictures, settings."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.saved import doors
from tests.saved.making import FILES

BLOCKS, SCHEDULES, TAGS, INFOTEXTS = (
    json.loads((FILES / f"{name}.json").read_text(encoding="utf-8"))
    for name in ("blocks", "schedules", "tags", "infotexts")
)


@pytest.mark.parametrize(("model", "text", "factors"), BLOCKS["texts"])
def test_block_strengths(model: str, text: str, factors: list[float]):
    assert doors.block_strengths(text, BLOCKS["models"][model]) == factors


@pytest.mark.parametrize("name", BLOCKS["presets"])
def test_presets_of_block_strengths(name: str):
    """Of those that fit a model: the name is what a workflow holds."""
    text = doors.block_presets()[name]
    for model, factors in BLOCKS["presets"][name].items():
        if factors is not None:
            assert doors.block_strengths(text, BLOCKS["models"][model]) == factors, model


@pytest.mark.parametrize(("widgets", "factors", "points"), SCHEDULES["schedules"])
def test_schedules(widgets: list, factors: list[float], points: list):
    found, keyframes = doors.schedule_of(*widgets)
    assert found == pytest.approx(factors, abs=1e-12) and keyframes == points


@pytest.mark.parametrize(("text", "strengths"), SCHEDULES["grids"])
def test_strengths_of_a_grid(text: str, strengths: list[float]):
    assert doors.grid_strengths(text) == strengths


@pytest.mark.parametrize(("prompt", "cleaned", "tags"), TAGS["prompts"])
def test_tags_in_a_prompt_of_comfyui(prompt: str, cleaned: str, tags: list):
    assert doors.tags_of(prompt) == (cleaned, tags)


@pytest.mark.parametrize(("tag", "mode", "request_"), TAGS["tags"])
def test_tags_in_a_prompt_of_a1111(tag: str, mode: str, request_: dict):
    assert doors.request_of(tag, mode) == request_


# A1111 and Forge


@pytest.fixture
def web_ui(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The extension on a stand-in of the host, by which of the recorded sets of files lie there, and its settings."""

    def made(what: str, settings: dict) -> SimpleNamespace:
        for path, adapter in INFOTEXTS["files"][what].items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(FILES / "adapters" / f"{adapter}.safetensors", tmp_path / path)
        return doors.web_ui(monkeypatch, tmp_path, settings)

    return made


_FIELD = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def read_as_the_host_does(text: str) -> dict[str, str]:
    """A picture's parameters (A1111 ``modules/infotext_utils.py: parse_generation_parameters``, its pattern)."""
    prompt, _, fields = text.split("\n")
    found = {name: json.loads(value) if value[:1] == '"' else value for name, value in _FIELD.findall(fields)}
    return {"Prompt": prompt, **found}


@pytest.mark.parametrize(("settings", "names", "hires", "parameters", "text"), INFOTEXTS["written"])
def test_pictures_say_their_files_as_before(web_ui, settings, names, hires, parameters, text):
    """A picture of then and one of today can be told apart by nothing."""
    web = web_ui("as they were", settings)
    p = SimpleNamespace(extra_generation_params={}, is_hr_pass=False)
    for said in (names, hires) if hires else (names,):
        web.infotext.write(p, [doors.in_force(web, name, settings.get("lokr_mode", "live")) for name in said])
        p.is_hr_pass = True
    assert p.extra_generation_params == parameters
    assert parameters.items() <= read_as_the_host_does(text).items()


@pytest.mark.parametrize(("what", "text", "settings", "prompt", "hires"), INFOTEXTS["read"])
def test_a_pictures_parameters_name_its_files_as_they_are_called_here(web_ui, what, text, settings, prompt, hires):
    parameters = read_as_the_host_does(text)
    said = {"Prompt": prompt, **({"Hires prompt": hires} if hires else {})}
    web_ui(what, settings).infotext.pasted(text, parameters)
    assert parameters == {**read_as_the_host_does(text), **said}


@pytest.mark.parametrize("what", INFOTEXTS["files"])
def test_names_in_prompts_mean_their_files(web_ui, what: str):
    web = web_ui(what, {})
    for name, file in ((name, file) for where, name, file in INFOTEXTS["found"] if where == what):
        try:
            found = web.library.find(name).path.relative_to(web.models).as_posix()
        except web.library.UnknownName:
            found = None
        assert found == file, name


def test_saved_settings(web_ui):
    """Of the host's config.json: their names, what they are until they are set, and what they mean."""
    options = {
        name: [option.default, option.infotext, (option.component_args or {}).get("choices")]
        for name, option in web_ui("gone", {}).options.items()
    }
    assert INFOTEXTS["options"].items() <= options.items()
    web = web_ui("gone", INFOTEXTS["settings"])
    settings = web.settings
    meant = [list(map(str, web.library.folders()))[1:3], settings.default_mode(), settings.writes_hashes()]
    assert [*meant, list(settings.card_size()), settings.prefers_filename()] == INFOTEXTS["meant"]


def test_what_the_host_cached_of_a_file_is_taken_or_read_anew(web_ui):
    web = web_ui("as they were", {})
    web.library.refresh()
    fresh = {entry.name: entry for entry in web.library.entries()}
    cache = web.host_cache("lokr-outlines")
    for title in cache:
        if "LoKr/style.safetensors" in title:
            cache[title] = INFOTEXTS["outline"]
    web.library.refresh()
    found = {entry.name: entry for entry in web.library.entries()}
    assert found == fresh and found["style"].outline.base_model == INFOTEXTS["outline"]["base_model"]


def test_the_extensions_door_stays_where_the_host_looks():
    """Its name is in the host's list of scripts, and in users' lists of those that are switched off."""
    assert (doors.PROJECT / "scripts" / "lokr.py").is_file() and (doors.PROJECT / "preload.py").is_file()
    assert "--lokr-dir" in (doors.PROJECT / "preload.py").read_text(encoding="utf-8")
