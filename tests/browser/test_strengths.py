"""One strength for model and clip, two on a switch; fine steps, and numbers beyond the sliders' ends."""

from __future__ import annotations

import pytest

from tests.browser.test_journey import PLACES
from tests.comfyui.test_server import loader, workflow


@pytest.fixture
def node(front):
    """A new loader with a file."""
    made = front.add("LoKrLoader", (200, 100))
    front.face(made, "choose").click()
    front.page.keyboard.type("style")
    front.page.keyboard.press("Enter")
    front.dialog("files").wait_for(state="detached")
    return made


def strengths(front, node: int) -> tuple[float, float]:
    values = front.values(node)
    return values["strength_model"], values["strength_clip"]


def sliders(front, node: int) -> list[str]:
    return [name for name in ("strength_model", "strength_clip") if front.face(node, name).count()]


def test_a_new_loader_has_one_strength_for_both(front, node):
    assert sliders(front, node) == ["strength_model"]
    front.face(node, "strength_model").focus()
    front.page.keyboard.press("ArrowLeft")
    assert strengths(front, node) == (pytest.approx(0.95), pytest.approx(0.95))
    front.page.keyboard.press("Shift+ArrowLeft")
    assert strengths(front, node) == (pytest.approx(0.94), pytest.approx(0.94))


def test_the_switch_sets_them_apart_and_together(front, node):
    front.face(node, "one").click()
    assert sliders(front, node) == ["strength_model", "strength_clip"]
    front.face(node, "strength_clip").focus()
    front.page.keyboard.press("ArrowLeft")
    assert strengths(front, node) == (1, pytest.approx(0.95))
    front.face(node, "one").click()
    assert (sliders(front, node), strengths(front, node)) == (["strength_model"], (1, 1))
    front.undo()
    assert strengths(front, node) == (1, pytest.approx(0.95))


def test_a_typed_number_may_be_of_any_size(front, node):
    front.face(node, "strength_model").focus()
    front.page.keyboard.type("3.72")
    front.page.keyboard.press("Enter")
    assert strengths(front, node) == (pytest.approx(3.72), pytest.approx(3.72))
    assert front.face(node, "strength_model").inner_text().endswith("3.72")
    front.page.keyboard.press("ArrowLeft")
    assert strengths(front, node)[0] < 3.72
    assert front.api(node)["strength_model"] == strengths(front, node)[0]


def test_a_prompt_with_two_numbers_shows_two_strengths(front):
    front.load(workflow(loader("style.safetensors", 0.5, 0.25)), PLACES)
    assert sliders(front, 20) == ["strength_model", "strength_clip"]
    assert strengths(front, 20) == (0.5, 0.25)


def test_a_workflow_of_before_has_two_strengths(front, node):
    graph = front.page.evaluate("app.graph.serialize()")
    (saved,) = (one for one in graph["nodes"] if one["id"] == node)
    del saved["properties"]["lokr_one_strength"]
    saved["widgets_values"] = saved["widgets_values"][:5]  # before the trigger words
    front.page.evaluate("graph => app.loadGraphData(graph)", graph)
    front.still()
    assert sliders(front, node) == ["strength_model", "strength_clip"]
    assert front.values(node)["lokr_name"] == "style.safetensors"
    assert front.values(node)["skip_words"] == ""


def test_a_stack_has_one_strength_per_row_and_two_on_its_switch(front):
    stack = front.add("LoKrStack")
    front.face(stack, "strength_model-1").focus()
    front.page.keyboard.press("ArrowLeft")
    values = front.values(stack)
    assert (values["strength_model_1"], values["strength_clip_1"]) == (pytest.approx(0.95), pytest.approx(0.95))
    front.face(stack, "one").click()
    front.face(stack, "strength_clip-1").focus()
    front.page.keyboard.press("ArrowRight")
    values = front.values(stack)
    assert (values["strength_model_1"], values["strength_clip_1"]) == (pytest.approx(0.95), pytest.approx(1))


def test_a_connected_strength_keeps_its_end_on_the_node(front, node):
    source = front.add("PrimitiveFloat", (-150, 100))
    front.page.evaluate(
        """([from, to]) => {
            const [source, target] = [from, to].map(id => app.graph.getNodeById(id));
            source.connect(0, target, target.inputs.findIndex(input => input.name === 'strength_clip'));
        }""",
        [source, node],
    )
    front.still()
    assert sliders(front, node) == ["strength_model"]
    hidden = "id => app.graph.getNodeById(id).widgets.find(w => w.name === 'strength_clip').hidden"
    assert not front.page.evaluate(hidden, node)
    assert front.api(node)["strength_clip"] == [str(source), 0]
