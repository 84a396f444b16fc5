"""Workflows and prompts that release 0.1.0 saved (``write_comfyui.py``) load, run and give what they gave.

Without a ComfyUI: that the nodes have the widgets, inputs and outputs, in the order in which a workflow holds them.
"""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from lokr_core import load_adapter
from tests.saved import doors
from tests.saved.graphs import CHECKPOINT, near, outcome, structure
from tests.saved.making import FILES

FOLDER = FILES / "comfyui"
NODES, INFO, PROMPTS, RESULTS = (
    json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    for name in ("nodes", "object_info", "prompts", "results")
)
WORKFLOWS = {
    name: json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")) for name in PROMPTS if name != "without"
}
DEFAULTS = ("auto", "")
"""Of the inputs that came since: ``expert``, ``skip_words``."""
LINKS = ("MODEL", "CLIP", "IMAGE")
"""Kinds of inputs without a widget, beside those of our own."""


def ours(nodes: list[dict]) -> list[dict]:
    return [node for node in nodes if node["type"].startswith("LoKr")]


def test_the_workflows_have_every_node():
    saved = {node["type"] for workflow in WORKFLOWS.values() for node in ours(workflow["nodes"])}
    assert saved == NODES.keys() == INFO.keys()


# without a host


@pytest.fixture(scope="module")
def schemas() -> dict[str, dict]:
    return doors.node_schemas()


@pytest.mark.parametrize("node", NODES)
def test_a_node_is_what_it_was(schemas, node: str):
    """Names, kinds, order, defaults, limits and choices: a workflow holds a node's values by their order alone."""
    now, then = schemas[node], NODES[node]
    count, outputs = len(then["inputs"]), len(then["outputs"])
    assert {**now, "inputs": now["inputs"][:count], "outputs": now["outputs"][:outputs]} == then
    # What came since is the last, and may be left out.
    assert all(said.get("optional") for said in now["inputs"][count:])


def widgets_of(inputs: list[dict], values: list, prefix: str = "") -> list[tuple[str, dict, object]]:
    """(name, input, value) of the widgets, as the page hands out a saved node's values: required ones come first, and
    the inputs of a dynamic combo's choice right behind it. ``values`` is used up."""
    found = []
    for said in sorted(inputs, key=lambda said: said.get("optional", False)):
        if said["kind"] in LINKS or said["kind"].startswith("LOKR"):
            continue
        value = values.pop(0)
        found.append((prefix + said["id"], said, value))
        if said["kind"] == "DYNAMICCOMBO":
            (chosen,) = (option for option in said["options"] if option["key"] == value)
            found += widgets_of(chosen["inputs"], values, f"{prefix}{said['id']}.")
    return found


def holds(said: dict, value: object) -> bool:
    """Whether a widget can have the value."""
    kind = said["kind"]
    if kind == "FLOAT":
        return said["min"] <= value <= said["max"]
    if kind == "COMBO":  # files are not known here
        return value in said["options"] or str(value).endswith(".safetensors")
    return kind == "DYNAMICCOMBO" or isinstance(value, {"BOOLEAN": bool, "STRING": str}[kind])


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_saved_workflows_values_belong_to_the_widgets_they_were_saved_of(schemas, name: str):
    for node in ours(WORKFLOWS[name]["nodes"]):
        schema, values = schemas[node["type"]], list(node.get("widgets_values") or [])
        then = NODES[node["type"]]
        schema = {**schema, **{part: schema[part][: len(then[part])] for part in ("inputs", "outputs")}}
        widgets, queued = widgets_of(schema["inputs"], values), PROMPTS[name][str(node["id"])]["inputs"]
        assert not values, f"{node['type']} has fewer widgets than values were saved"
        assert {key: value for key, value in queued.items() if not isinstance(value, list)} == {
            key: value for key, _, value in widgets
        }
        assert all(holds(said, value) for _, said, value in widgets), node["type"]
        links = {said["id"]: said["kind"] for said in schema["inputs"]}
        for slot in (slot for slot in node["inputs"] if not slot.get("widget")):
            assert links[slot["name"]] == slot["type"], node["type"]
        outputs = [[said.get("name") or said["id"], said["kind"]] for said in schema["outputs"]]
        assert [[slot["name"], slot["type"]] for slot in node["outputs"]] == outputs, node["type"]


# with a host


@pytest.fixture(scope="module")
def empty_server(comfyui, tmp_path_factory):
    """A server without a single model."""
    with comfyui.serve(tmp_path_factory.mktemp("empty")) as running:
        yield running


@pytest.mark.parametrize("node", INFO)
def test_the_server_says_of_a_node_what_it_said(empty_server, node: str):
    now, then = structure(empty_server.get(f"/object_info/{node}")[node]), INFO[node]
    for part in ("optional", "output", "output_name", "output_is_list"):
        if part in then:  # what came since is the last of these
            now[part] = now[part][: len(then[part])]
    assert now == then


@pytest.fixture(scope="module")
def server(comfyui, tmp_path_factory):
    """A server with the adapters that the workflows name, and the tests' small checkpoint."""
    base = tmp_path_factory.mktemp("saved")
    doors.make_checkpoint(comfyui, base, CHECKPOINT)
    for name in ("style", "other"):
        shutil.copy(FOLDER / f"{name}.safetensors", base / "models/loras")
    with comfyui.serve(base) as running:
        yield running


@pytest.fixture(scope="module")
def results(server) -> dict[str, dict]:
    """What the saved prompts give, each run once and in their order: what a node does may depend on its last run."""
    return {name: outcome(server, prompt) for name, prompt in PROMPTS.items()}


@pytest.mark.parametrize("name", PROMPTS)
def test_a_saved_prompt_runs_and_reports_what_it_did(results, name: str):
    def without_pictures(found: dict) -> dict:
        return {
            node: {key: value for key, value in entry.items() if key != "pictures"} for node, entry in found.items()
        }

    found, saved = without_pictures(results[name]), without_pictures(RESULTS[name])
    assert _without_auto(found, name) == _without_auto(saved, name)


def _without_auto(found: dict, name: str) -> dict:
    """Without the modes that *auto* chose, which goes by the costs of today: "LoKrStack 20" -> its reports' fifth."""
    kept = {}
    for node, entry in found.items():
        inputs = PROMPTS[name].get(node.rpartition(" ")[2], {"inputs": {}})["inputs"]
        if inputs.get("mode") == "auto" and "reports" in entry:
            entry = {**entry, "reports": [[*report[:4], "auto", *report[5:]] for report in entry["reports"]]}
        kept[node] = entry
    return kept


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_saved_prompt_gives_the_picture_that_it_gave(results, name: str):
    (before,), (now,) = (found["without"]["SaveImage 8"]["pictures"] for found in (RESULTS, results))
    if not near(now, before):
        pytest.skip("ANOTHER COMFYUI OR TORCH HERE: the picture without an adapter is another one already")
    for node, saved in RESULTS[name].items():
        for one, other in zip(results[name][node].get("pictures", ()), saved.get("pictures", ()), strict=True):
            assert near(one, other), node
            assert not near(other, before)


def test_lokr_save_writes_what_it_wrote(results, server):
    found = load_adapter(server.base / "output" / results["every"]["LoKrSave 40"]["file"])
    saved = load_adapter(FOLDER / "saved.safetensors")
    assert found.keys() == saved.keys()
    for module, weights in saved.items():
        assert torch.allclose(found[module].delta(), weights.delta(), rtol=1e-4, atol=1e-6), module


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_page_makes_of_a_saved_workflow_the_prompt_that_it_made(browser, server, name: str):
    """And saves it again as it was: widgets, links, and what our editors keep in a node's properties. An input that
    came since has its default, behind the values that were saved."""
    with doors.page(browser, server.url) as page:
        prompt, nodes = doors.prompt_of_page(page, WORKFLOWS[name])
        if name == "every":
            assert doors.editors_of_page(page, stack=22) == (True, "8")
        assert not page.errors
    for node, entry in PROMPTS[name].items():
        since = prompt[node]["inputs"].keys() - entry["inputs"].keys()
        assert all(prompt[node]["inputs"].pop(key) in DEFAULTS for key in since)
    assert prompt == PROMPTS[name]
    found, saved = (
        {node["id"]: [node["type"], node.get("widgets_values") or [], node["properties"]] for node in ours(each)}
        for each in (nodes, WORKFLOWS[name]["nodes"])
    )
    for node, (_, values, _) in saved.items():
        assert all(value in DEFAULTS for value in found[node][1][len(values) :])
        del found[node][1][len(values) :]
    assert found == saved
