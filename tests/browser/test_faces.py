"""The pack's faces on nodes: the width they keep, the names by which apps save them, the node they belong to."""

from __future__ import annotations

import pytest

from tests.browser.test_stack import FILES, names, stack  # noqa: F401  (stack is a fixture)

FACES = {
    "LoKrStack": {"lokr_rows": "LoKr rows", "lokr_status": "LoKr status"},
    "LoKrLoader": {"lokr_status": "LoKr status"},
    "LoKrBlockStrengths": {"lokr_blocks": "LoKr blocks"},
    "LoKrSchedule": {"lokr_curve": "LoKr curve"},
}


def toggle_panel(front) -> None:
    front.page.get_by_label("Toggle properties panel").first.click()
    front.still(10)


def test_rows_keep_their_width_beside_the_properties_panel(front, stack):  # noqa: F811
    face = front.face(stack, "add").locator("xpath=ancestor::*[contains(@class, 'lokr-face-host')]")
    front.arrange({stack: (60, 160)})  # its title below the page's menu
    before = face.bounding_box()["width"]
    toggle_panel(front)
    try:
        front.page.mouse.click(*front.title(stack))
        front.page.wait_for_function("id => !!app.canvas.selected_nodes[id]", arg=stack)
        front.still(10)
        listed = front.page.get_by_text("lokr_status").count()
        opened = face.bounding_box()["width"]
    finally:
        toggle_panel(front)
    assert listed == 0
    assert opened == pytest.approx(before, abs=1)
    assert face.bounding_box()["width"] == pytest.approx(before, abs=1)
    front.face(stack, "remove-3").click()
    assert names(front, stack) == FILES[:2]


def test_a_face_has_the_same_name_in_every_session_and_a_label(front):
    for kind, faces in FACES.items():
        for _ in range(2):
            node = front.add(kind)
            found = front.page.evaluate(
                "id => app.graph.getNodeById(id).widgets.filter(w => w.type === 'lokr').map(w => [w.name, w.label])",
                node,
            )
            assert dict(found) == faces


def test_an_app_keeps_the_rows_over_a_reload(front, stack):  # noqa: F811
    chosen = [[str(stack), "lokr_rows"]]
    kept = front.page.evaluate(
        """async inputs => {
            const graph = app.graph.serialize();
            graph.extra = {...graph.extra, linearData: {inputs, outputs: []}};
            await app.loadGraphData(graph);
            const [[id, name]] = app.graph.extra.linearData.inputs;
            return app.graph.getNodeById(id).widgets.some(widget => widget.name === name);
        }""",
        chosen,
    )
    assert kept


def test_after_an_undo_the_face_is_that_of_the_node(front, stack):  # noqa: F811
    front.face(stack, "remove-1").click()
    assert names(front, stack) == FILES[1:]
    front.undo()
    assert names(front, stack) == FILES
    front.face(stack, "file-3").wait_for()
    front.face(stack, "on-3").click()
    assert front.values(stack)["row_2.row_3.on_3"] is False
    assert front.face(stack, "on-3").get_attribute("aria-checked") == "false"
