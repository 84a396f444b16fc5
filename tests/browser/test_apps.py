"""A subgraph or an app that holds a stack shows its rows."""

from __future__ import annotations

import pytest

from tests.browser.test_journey import PLACES
from tests.browser.test_plain import STACK
from tests.comfyui.test_server import workflow


@pytest.fixture
def stack(front):
    front.load(workflow({"class_type": "LoKrStack", "inputs": STACK}), {**PLACES, 20: (350, 60)})
    return 20


def rows(front):
    return front.page.locator(".lokr-row").filter(visible=True)


def test_an_app_shows_the_rows_and_what_is_set_there_is_queued(front, stack):
    front.page.evaluate(
        """async inputs => {
            const graph = app.graph.serialize();
            graph.extra = {...graph.extra, linearData: {inputs, outputs: ['8']}};
            await app.loadGraphData(graph);
            await app.extensionManager.command.execute('Comfy.ToggleLinear');
        }""",
        [[str(stack), "lokr_rows"], [str(stack), "lokr_status"]],
    )
    try:
        front.page.get_by_text("LoKr rows", exact=True).wait_for()
        rows(front).first.wait_for()
        assert rows(front).count() == 2
        front.page.locator("[data-key='on-2']").filter(visible=True).click()
        assert front.api(stack)["row_2.on_2"] is False
    finally:
        front.page.evaluate("() => app.extensionManager.command.execute('Comfy.ToggleLinear')")
    shown = "[...document.querySelectorAll('.lokr-row')].filter(row => row.checkVisibility()).length"
    front.page.wait_for_function(f"{shown} === 2 && app.graph.nodes.length > 5")
    front.still(8)
    assert rows(front).count() == 2


def test_a_subgraph_shows_the_rows_of_its_stack(front, stack):
    found = front.page.evaluate(
        """async id => {
            app.canvas.deselectAll?.();
            app.canvas.selectNode(app.graph.getNodeById(id));
            await app.extensionManager.command.execute('Comfy.Graph.ConvertToSubgraph');
            const graph = app.graph.serialize();
            const [subgraph] = app.graph.nodes.filter(node => node.subgraph);
            const saved = graph.nodes.find(node => node.id === subgraph.id);
            saved.properties.proxyWidgets = [[String(id), 'lokr_rows']];
            saved.size = [520, 260];
            await app.loadGraphData(graph);
            return app.graph.nodes.find(node => node.subgraph).widgets.map(widget => widget.name);
        }""",
        stack,
    )
    assert found == ["lokr_rows"]
    rows(front).first.wait_for()
    assert rows(front).count() == 2
