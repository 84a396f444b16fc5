"""The nodes' texts in every language: complete, and about the nodes that there are."""

from __future__ import annotations

import importlib.util
import json
import re

import pytest

from lokr_core.strengths import BLOCK_LAYOUTS
from tests.hosts import PROJECT, ComfyUI

LANGUAGES = ("en", "ar", "de", "es", "fa", "fr", "ja", "ko", "pt-BR", "ru", "tr", "zh", "zh-TW")
HOLE = re.compile(r"\{\w+\}")


def read(path: str) -> dict:
    return json.loads((PROJECT / path).read_text(encoding="utf-8"))


def texts(language: str) -> dict:
    return read(f"locales/{language}/nodeDefs.json")


def flat(entry: object, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """Path in the file -> text."""
    if isinstance(entry, str):
        return {path: entry}
    return {key: text for name, inner in entry.items() for key, text in flat(inner, (*path, name)).items()}


def inputs_of(specs: dict, prefix: str = "") -> dict[str, dict]:
    """Every input of a node, those of a row inside its row, as the page names them in translations."""
    found = {}
    for name, (_, *options) in {**specs.get("required", {}), **specs.get("optional", {})}.items():
        found[prefix + name] = options[0] if options else {}
        for option in found[prefix + name].get("options", ()):
            if isinstance(option, dict):
                found |= inputs_of(option["inputs"], f"{prefix}{name}_")
    return found


@pytest.fixture(scope="module")
def schemas(comfyui: ComfyUI, tmp_path_factory) -> dict:
    base = tmp_path_factory.mktemp("schemas")
    comfyui.run(base, {"do": "schemas", "out": str(base / "schemas.json")})
    return json.loads((base / "schemas.json").read_text())


def said_by_the_page() -> set[str]:
    """Every text in a call of ``t`` in web/."""
    call = re.compile(r"""(?<![\w.])t\(\s*("(?:[^"\\]|\\.)*"|'[^'\\]*')""")
    scripts = [path.read_text(encoding="utf-8") for path in (PROJECT / "web").glob("*.js")]
    return {json.loads(f'"{text[1:-1]}"' if text[0] == '"' else json.dumps(text[1:-1]))
            for script in scripts for text in call.findall(script)}  # fmt: skip


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_the_files_of_a_language_are_made_of_its_one_source(language):
    spec = importlib.util.spec_from_file_location("locales_make", PROJECT / "locales" / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    assert make.languages() == sorted(LANGUAGES[1:])
    assert texts(language) == make.node_texts(language)
    assert read(f"web/texts/{language}.json") == make.page_texts(language)


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_no_word_of_the_page_is_missing(language):
    source = read(f"locales/{language}.json")
    assert source["page"].keys() == said_by_the_page()
    assert source["told"].keys() == read("locales/de.json")["told"].keys()
    for english, other in {**source["page"], **source["told"]}.items():
        assert set(HOLE.findall(english)) == set(HOLE.findall(other)), english
        assert other.strip()


def test_what_python_is_taken_to_tell_is_in_its_sources():
    files = [*PROJECT.glob("lokr_core/**/*.py"), *PROJECT.glob("nodes/*.py")]
    sources = re.sub(r'"\s*\n\s*f?"', "", "\n".join(path.read_text(encoding="utf-8") for path in files))
    labels = {group.label for layout in BLOCK_LAYOUTS.values() for group in layout.groups}
    for template in read("locales/de.json")["told"].keys() - labels:
        for part in HOLE.split(template):
            assert part.strip(" .,;:()") in sources, (template, part)


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_every_language_has_every_text(language):
    english, other = flat(texts("en")), flat(texts(language))
    assert other.keys() == english.keys()
    assert all(text.strip() for text in other.values())
    prose = {key for key in english if key[-1] in ("tooltip", "description")}
    assert not [key for key in prose if other[key] == english[key]], "left in English"


def test_english_is_what_the_nodes_say(schemas):
    english = texts("en")
    assert english.keys() == schemas.keys()
    for node, schema in schemas.items():
        entry = english[node]
        assert (entry["display_name"], entry["description"]) == (schema["display_name"], schema["description"])
        inputs = inputs_of(schema["input"])
        assert entry["inputs"].keys() == inputs.keys(), node
        for name, options in inputs.items():
            assert entry["inputs"][name].get("tooltip") == options.get("tooltip"), (node, name)
        tooltips = {str(number): tooltip for number, tooltip in enumerate(schema["output_tooltips"])}
        assert {number: output.get("tooltip") for number, output in entry["outputs"].items()} == tooltips


def test_every_node_has_its_help_page(schemas):
    for node, schema in schemas.items():
        page = (PROJECT / "web/docs" / f"{node}.md").read_text(encoding="utf-8")
        assert page.startswith(f"# {schema['display_name']}\n")
        for name in {**schema["input"].get("required", {}), **schema["input"].get("optional", {})}:
            assert f"`{name}`" in page, f"{node} does not tell of {name}"
    assert {path.stem for path in (PROJECT / "web/docs").glob("*.md")} == schemas.keys()
