"""The curve editor: points by mouse and keys, eased, snapping to steps, in the keyframes of the plain widget."""

from __future__ import annotations

import pytest

from lokr_core.strengths import keyframes


@pytest.fixture
def schedule(front):
    return front.add("LoKrSchedule")


def points(front, node) -> list[tuple[float, float]]:
    return [(round(p, 3), round(f, 3)) for p, f in keyframes(front.values(node)["keyframes"])]


def curve(front, node):
    front.face(node, "point-0").wait_for()
    return front.page.locator("svg.lokr-curve").last


def place(front, node, across: float, up: float) -> tuple[float, float]:
    """Where on the screen a share of the picture is: 0 to 1 from the left, and from the bottom."""
    box = curve(front, node).bounding_box()
    left, right, top, bottom = 30, 18, 10, 20
    return (
        box["x"] + left + across * (box["width"] - left - right),
        box["y"] + box["height"] - bottom - up * (box["height"] - top - bottom),
    )


def test_points_are_made_moved_and_removed_by_mouse_and_keys(front, schedule):
    front.page.mouse.click(*place(front, schedule, 0.2, 0.5))
    front.page.mouse.click(*place(front, schedule, 0.8, 0.1))
    made = points(front, schedule)
    assert [round(percent, 1) for percent, _ in made] == [0.2, 0.8]
    assert made[0][1] > made[1][1]
    box = front.face(schedule, "point-1").bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    front.drag(middle, place(front, schedule, 0.6, 0.9))
    assert points(front, schedule)[1][0] == pytest.approx(0.6, abs=0.02)
    assert points(front, schedule)[1][1] > made[0][1]
    assert front.focused() == "point-1"
    before = points(front, schedule)[1]
    front.page.keyboard.press("ArrowUp")
    front.page.keyboard.press("Shift+ArrowLeft")
    assert points(front, schedule)[1] == pytest.approx((before[0] - 0.01, before[1] + 0.05))
    front.page.keyboard.press("Enter")
    assert len(points(front, schedule)) == 3
    assert front.focused() == "point-2"
    front.page.keyboard.press("Delete")
    assert len(points(front, schedule)) == 2
    assert front.page.evaluate("app.graph.nodes.length") == 1


def test_points_snap_to_steps_and_do_not_pass_one_another(front, schedule):
    field = front.page.get_by_label("Snap to steps").last
    field.fill("5")
    field.press("Tab")
    front.page.mouse.click(*place(front, schedule, 0.27, 0.5))
    front.page.mouse.click(*place(front, schedule, 0.7, 0.5))
    assert [percent for percent, _ in points(front, schedule)] == [0.25, 0.75]
    for expected in (0.5, 0.25, 0.25):
        front.page.keyboard.press("ArrowLeft")
        assert points(front, schedule)[1][0] == expected


def test_a_drag_is_one_step_of_the_graphs_undo(front, schedule):
    front.page.mouse.click(*place(front, schedule, 0.2, 0.5))
    start = points(front, schedule)
    front.drag(place(front, schedule, 0.2, 0.5), place(front, schedule, 0.5, 0.8))
    assert points(front, schedule) != start
    front.undo()
    assert points(front, schedule) == start
    curve(front, schedule)  # it is drawn anew
    front.undo()
    assert front.values(schedule)["keyframes"] == ""


def test_a_text_is_drawn_and_one_that_is_no_curve_is_told(front, schedule):
    text = front.page.locator("textarea").last
    text.fill("0:0, 0.5:1, 1:0.2")
    assert front.page.locator(".lokr-point").count() == 3
    text.fill("0:0, oops")
    assert front.page.locator(".lokr-point").count() == 0
    assert front.page.get_by_text("These keyframes are not a curve").count() == 1


def test_the_curve_is_the_one_that_the_sampler_follows(front):
    """The page's arithmetic against lokr_core's, at edges, jumps and between."""
    from lokr_core.strengths import EASES, Schedule

    text = "0.1:-0.5, 0.3:1, 0.3:0.2, 0.75:2, 1:0"
    percents = [number / 40 for number in range(41)]
    for ease in EASES:
        drawn = front.page.evaluate(
            """async ([text, ease, percents]) => {
                const {pointsOf, factorAt} = await import('/extensions/comfyui-lokr/curve.js');
                return percents.map(percent => factorAt(pointsOf(text), ease, percent));
            }""",
            [text, ease, percents],
        )
        schedule = Schedule(keyframes(text), ease)
        assert drawn == pytest.approx([schedule.at(percent) for percent in percents], abs=1e-6), ease
