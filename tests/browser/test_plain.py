"""Without the pack's scripts, as in an old front end, and without its routes: the plain widgets do it all."""

from __future__ import annotations

import pytest

from tests.comfyui.test_server import loader, workflow

STACK = {
    "on_1": True,
    "lokr_1": "style.safetensors",
    "strength_model_1": 0.8,
    "strength_clip_1": 1.0,
    "row_2": "add",
    "row_2.on_2": True,
    "row_2.lokr_2": "other.safetensors",
    "row_2.strength_model_2": 0.5,
    "row_2.strength_clip_2": 0.4,
    "row_2.row_3": "none",
}


@pytest.fixture(scope="module", params=["LiteGraph", "Vue nodes"])
def page_of(request, browser, front_server):
    from tests.browser.front import Front

    context = browser.new_context(viewport={"width": 1500, "height": 900})
    context.route("**/extensions/comfyui-lokr/**", lambda route: route.abort())
    yield Front(context.new_page(), front_server.url, vue=request.param == "Vue nodes").open()
    context.close()


def test_every_node_works_by_its_plain_widgets(front):
    front.load(workflow(loader("style.safetensors", 0.7), {"class_type": "LoKrStack", "inputs": STACK}))
    assert front.page.locator(".lokr-face").count() == 0
    blocks, schedule = front.add("LoKrBlockStrengths"), front.add("LoKrSchedule")
    front.page.evaluate(
        """([blocks, schedule]) => {
            const [from, curve, to] = [blocks, schedule, 21].map(id => app.graph.getNodeById(id));
            from.widgets.find(widget => widget.name === 'strengths').value = 'IN:0.5';
            curve.widgets.find(widget => widget.name === 'keyframes').value = '0:0, 1:1';
            const slot = name => to.inputs.findIndex(input => input.name === name);
            from.connect(0, to, slot('blocks'));
            curve.connect(0, to, slot('schedule'));
            to.widgets.find(widget => widget.name === 'row_2.strength_model_2').value = 0.25;
            to.widgets.find(widget => widget.name === 'row_2.row_3').value = 'add';
            const file = to.widgets.find(widget => widget.name === 'row_2.row_3.lokr_3');
            file.value = 'people/face.safetensors';
        }""",
        [blocks, schedule],
    )
    queued = front.api(21)
    assert queued["row_2.strength_model_2"] == 0.25
    assert queued["row_2.row_3.strength_model_3"] == 1
    assert front.run() == "success"


def test_a_workflow_of_the_rows_opens_with_plain_widgets_and_back(front, browser, front_server):
    from tests.browser.front import opened

    front.load(workflow({"class_type": "LoKrStack", "inputs": STACK}))
    graph = front.page.evaluate("app.graph.serialize()")
    with opened(browser, front_server.url, vue=front.vue) as with_scripts:
        with_scripts.page.evaluate("graph => app.loadGraphData(graph)", graph)
        with_scripts.face(20, "file-2").wait_for()
        assert with_scripts.api(20) == front.api(20)
        back = with_scripts.page.evaluate("app.graph.serialize()")
    front.page.evaluate("graph => app.loadGraphData(graph)", back)
    front.still()
    assert {name: front.api(20)[name] for name in STACK} == STACK


def test_without_the_routes_a_file_is_chosen_by_its_name(browser, front_server):
    from tests.browser.front import opened

    with opened(browser, front_server.url) as front:
        front.page.route("**/lokr/**", lambda route: route.fulfill(status=404, body="not found"))
        node = front.add("LoKrLoader")
        assert front.shows(node, ("none", "choose a file"))
        front.face(node, "choose").click()
        front.page.keyboard.type("people")
        front.page.keyboard.press("Enter")
        assert front.values(node)["lokr_name"] == "people/face.safetensors"
        front.face(node, "info").click()
        front.dialog("info").get_by_text("404").wait_for()
        assert not front.errors
