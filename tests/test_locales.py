"""The nodes' texts in every language: complete, and about the nodes that there are."""

from __future__ import annotations

import json

import pytest

from tests.hosts import PROJECT, ComfyUI

LANGUAGES = ("en", "de", "ja", "zh")


def texts(language: str) -> dict:
    return json.loads((PROJECT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


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
