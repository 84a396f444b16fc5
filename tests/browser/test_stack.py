"""The stack's rows: by mouse and by keys, with the values where the plain widgets have them."""

from __future__ import annotations

import pytest

from tests.comfyui.test_server import workflow

PLACES = {1: (0, 0), 3: (950, 0), 4: (950, 230), 5: (950, 450), 6: (1380, 0), 20: (350, 60), 120: (350, 520)}
FILES = ["style.safetensors", "other.safetensors", "people/face.safetensors"]


def names(front, node) -> list[str]:
    """The files of the rows, first to last, read off the widgets."""
    return [value for name, value in front.values(node).items() if name.rpartition(".")[2].startswith("lokr_")]


@pytest.fixture
def stack(front):
    """A stack of three rows, added by its buttons."""
    node = front.add("LoKrStack")
    for number, file in enumerate(FILES, 1):
        front.face(node, f"file-{number}" if number == 1 else "add").click()
        front.page.keyboard.type(file.partition(".")[0])
        front.page.keyboard.press("Enter")
        front.dialog("files").wait_for(state="detached")
    return node


def test_rows_are_added_with_the_chooser(front, stack):
    assert names(front, stack) == FILES
    assert front.api(stack)["row_2.lokr_2"] == "other.safetensors"
    assert front.api(stack)["row_2.row_3.lokr_3"] == "people/face.safetensors"
    assert front.api(stack)["row_2.row_3.row_4"] == "none"


def test_the_plain_widgets_of_rows_are_hidden_and_come_back(front, stack):
    def shown():
        # those of type lokr are the pack's own faces
        return front.page.evaluate(
            """id => app.graph.getNodeById(id).widgets
                .filter(w => !w.hidden && !w.options?.hidden && w.type !== 'lokr').map(w => w.name)""",
            stack,
        )

    assert shown() == ["mode"]
    if front.vue:
        assert front.page.locator(f"[data-node-id='{stack}']").get_by_text("lokr_1", exact=True).count() == 0
    front.page.evaluate(
        """id => {
            const extension = app.extensions.find(extension => extension.name === 'comfyui-lokr');
            const items = extension.getNodeMenuItems(app.graph.getNodeById(id));
            items.find(item => item.content === 'LoKr: show plain widgets').callback();
        }""",
        stack,
    )
    front.still()
    assert "row_2.lokr_2" in shown()
    assert not front.face(stack, "file-1").is_visible()


def test_a_row_is_switched_off_by_mouse_and_on_by_keys(front, stack):
    front.face(stack, "on-2").click()
    assert front.values(stack)["row_2.on_2"] is False
    assert front.focused() == "on-2"
    front.page.keyboard.press("Space")
    assert front.values(stack)["row_2.on_2"] is True


def test_all_are_switched_off_and_on(front, stack):
    def switches():
        return [value for name, value in front.values(stack).items() if name.rpartition(".")[2].startswith("on_")]

    front.face(stack, "all").click()
    assert switches() == [False] * 3
    front.face(stack, "all").click()
    assert switches() == [True] * 3


def test_a_strength_is_dragged_and_pressed_and_typed(front, stack):
    front.face(stack, "one").click()  # two strengths per row
    slider = front.face(stack, "strength_model-1")
    box = slider.bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    front.drag(middle, (middle[0] - 30, middle[1]))
    assert front.values(stack)["strength_model_1"] == pytest.approx(0.7)
    assert front.focused() == "strength_model-1"
    front.page.keyboard.press("ArrowRight")
    assert front.values(stack)["strength_model_1"] == pytest.approx(0.75)
    front.page.keyboard.press("Shift+ArrowLeft")
    assert front.values(stack)["strength_model_1"] == pytest.approx(0.74)
    front.page.keyboard.press("Enter")
    front.page.keyboard.type("-0.5")
    front.page.keyboard.press("Enter")
    assert front.values(stack)["strength_model_1"] == pytest.approx(-0.5)
    assert slider.get_attribute("aria-valuenow") == "-0.5"
    assert front.values(stack)["strength_clip_1"] == 1


def test_rows_are_moved_by_drag_and_by_keys(front, stack):
    first, third = (front.face(stack, f"handle-{number}").bounding_box() for number in (1, 3))
    centre = [(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for box in (first, third)]
    front.drag(centre[0], (centre[1][0], centre[1][1] + 8))
    assert names(front, stack) == [FILES[1], FILES[2], FILES[0]]
    assert front.focused() == "handle-3"
    front.page.keyboard.press("ArrowUp")
    assert names(front, stack) == [FILES[1], FILES[0], FILES[2]]
    assert front.focused() == "handle-2"


def test_a_row_is_removed_and_one_always_stays(front, stack):
    front.face(stack, "remove-2").click()
    assert names(front, stack) == [FILES[0], FILES[2]]
    front.face(stack, "remove-1").click()
    assert names(front, stack) == [FILES[2]]
    assert front.face(stack, "remove-1").is_disabled()


def test_each_act_is_one_step_of_the_graphs_undo(front, stack):
    front.face(stack, "remove-2").click()
    slider = front.face(stack, "strength_model-1")
    box = slider.bounding_box()
    front.drag((box["x"] + 50, box["y"] + 10), (box["x"] + 10, box["y"] + 10))
    assert front.values(stack)["strength_model_1"] == pytest.approx(0.6)
    front.undo()
    assert front.values(stack)["strength_model_1"] == 1
    assert names(front, stack) == [FILES[0], FILES[2]]
    front.undo()
    assert names(front, stack) == FILES
    assert front.face(stack, "file-3").inner_text() == FILES[2]


def test_shortcuts_of_the_page_do_not_fire_from_a_row(front, stack):
    front.face(stack, "strength_model-1").focus()
    front.page.keyboard.press("ArrowLeft")
    front.page.keyboard.press("Enter")
    front.page.keyboard.type("0.5")
    front.page.keyboard.press("Backspace")
    front.page.keyboard.press("Delete")
    front.page.keyboard.press("Escape")
    assert front.values(stack)["strength_model_1"] == pytest.approx(0.95)


def test_the_chooser_searches_shows_pictures_and_closes_with_escape(front, stack):
    front.face(stack, "file-1").click()
    dialog = front.dialog("files")
    dialog.locator("img").wait_for()
    assert dialog.locator(".lokr-file").count() == 5
    front.page.keyboard.type("people")
    assert dialog.locator(".lokr-file").count() == 1
    assert dialog.get_by_role("status").inner_text() == "1 of 5 files"
    front.page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    assert front.focused() == "file-1"
    assert names(front, stack) == FILES


def test_escape_after_add_leaves_the_rows_as_they_were(front, stack):
    front.face(stack, "add").click()
    front.dialog("files").wait_for()
    front.page.keyboard.press("Escape")
    front.dialog("files").wait_for(state="detached")
    assert names(front, stack) == FILES
    assert front.focused() == "add"


def test_a_file_in_two_rows_is_told_until_one_is_off(front, stack):
    front.face(stack, "file-2").click()
    front.page.keyboard.type("style")
    front.page.keyboard.press("Enter")
    told = front.face(stack, "told")
    assert told.inner_text() == "style.safetensors is in rows 1 and 2: its strengths add up"
    front.face(stack, "on-2").click()
    assert not told.is_visible()


def test_the_rows_of_a_run_are_coloured_and_the_report_names_their_files(front):
    rows = {"on_1": True, "lokr_1": "style.safetensors", "strength_model_1": 0.5, "strength_clip_1": 0.5}
    rows |= {"row_2": "add", "row_2.on_2": True, "row_2.lokr_2": "partial.safetensors", "row_2.row_3": "none"}
    rows |= {"row_2.strength_model_2": 0.5, "row_2.strength_clip_2": 0.5}
    front.load(workflow({"class_type": "LoKrStack", "inputs": rows}), PLACES)
    levels = [front.page.locator(".lokr-row").nth(row) for row in (0, 1)]
    assert front.run() == "success"
    assert [row.get_attribute("data-level") for row in levels] == ["ok", "warn"]
    front.face(20, "badge").click()
    said = front.dialog("report").inner_text()
    assert "row 1: style.safetensors" in said
    assert "row 2: partial.safetensors" in said
    front.page.keyboard.press("Escape")
    front.face(20, "file-2").dispatch_event("click")
    front.page.keyboard.type("nothing")
    front.page.keyboard.press("Enter")
    assert front.run() == "error"
    assert [row.get_attribute("data-level") for row in levels] == ["", "error"]


def test_the_prompt_loaders_report_names_its_files(front):
    prompt = {"prompt": "a <lokr:style:0.5> <lokr:partial:0.3>"}
    front.load(workflow({"class_type": "LoKrPromptLoader", "inputs": prompt}), PLACES)
    assert front.run() == "success"
    front.face(20, "badge").click()
    said = front.dialog("report").inner_text()
    assert "<lokr:style:0.5>: style.safetensors" in said
    assert "<lokr:partial:0.3>: partial.safetensors" in said
