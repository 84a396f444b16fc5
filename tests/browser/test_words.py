"""Trigger words out of the loaders: of the files in force, without those that are switched off on the node."""

from __future__ import annotations

import pytest

from tests.browser.test_journey import PLACES
from tests.browser.test_plain import STACK
from tests.comfyui.test_server import loader, workflow

SHOWN = {"class_type": "PreviewAny", "inputs": {}}


def with_words(prompt: dict, output: int) -> dict:
    return {**prompt, "200": {"class_type": "PreviewAny", "inputs": {"source": ["20", output]}}}


def put_out(front, server, expected: str) -> bool:
    """Whether a run's node behind the output gets that; the history has a run a moment after its end."""
    known = server.get("/history").keys()
    assert front.run() == "success"
    for _ in range(50):
        new = [entry for name, entry in server.get("/history").items() if name not in known]
        if new:
            return new[0]["outputs"]["200"]["text"][0] == expected
        front.page.wait_for_timeout(200)
    return False


@pytest.fixture
def two_words(front_server):
    """A sidecar with two words beside style.safetensors."""
    path = front_server.base / "models/loras/style.json"
    path.write_text('{"activation text": "lghths style, storm"}')
    yield
    path.unlink()


@pytest.mark.parametrize(
    "node,output",
    [
        (loader("style.safetensors", 0.5), 3),
        ({"class_type": "LoKrStack", "inputs": {**STACK, "lokr_1": "style.safetensors"}}, 3),
        ({"class_type": "LoKrPromptLoader", "inputs": {"prompt": "a <lokr:style:0.5>"}}, 4),
    ],
)
def test_words_are_put_out_but_those_that_are_switched_off(front, front_server, two_words, node, output):
    front.load(with_words(workflow(node), output), {**PLACES, 20: (350, 60), 200: (350, 520)})
    front.page.evaluate("async () => (await import('/extensions/comfyui-lokr/api.js')).listAdapters({fresh: true})")
    front.page.evaluate("app.graph.getNodeById(20).onConnectionsChange()")
    chip = front.face(20, "word-storm")
    chip.wait_for()
    assert put_out(front, front_server, "lghths style, storm")
    chip.dispatch_event("click")
    assert front.face(20, "word-storm").get_attribute("aria-pressed") == "false"
    assert put_out(front, front_server, "lghths style")


def test_words_are_chosen_where_the_output_is_connected(front):
    front.load(with_words(workflow(loader("style.safetensors", 0.5)), 3), {**PLACES, 20: (350, 60), 200: (350, 520)})
    chip = front.face(20, "word-lghths style")
    chip.wait_for()
    front.page.evaluate("app.graph.getNodeById(200).disconnectInput(0)")
    chip.wait_for(state="detached")


def test_the_choice_is_kept_in_a_saved_workflow(front):
    node = {"class_type": "LoKrStack", "inputs": {**STACK, "lokr_1": "style.safetensors"}}
    front.load(with_words(workflow(node), 3), PLACES)
    front.face(20, "word-lghths style").dispatch_event("click")
    graph = front.page.evaluate("app.graph.serialize()")
    front.page.evaluate("graph => app.loadGraphData(graph)", graph)
    front.face(20, "word-lghths style").wait_for(state="attached")
    front.still()
    assert front.api(20)["skip_words"] == "lghths style"
    assert front.api(20)["row_2.lokr_2"] == "other.safetensors"
    assert front.face(20, "word-lghths style").get_attribute("aria-pressed") == "false"
