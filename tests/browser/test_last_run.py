"""The badge keeps the last run over undo, tabs, a reload and a cached run; it is grey once another would be applied."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import save_file

from tests.browser.test_journey import PLACES
from tests.comfyui.test_server import LAYERS, loader, lokr, workflow

APPLIED, PAST = ("ok", "4/4 applied · merge"), ("past", "last run: 4/4 applied · merge")


@pytest.fixture
def ran(front):
    """A workflow that ran with a loader of style.safetensors, without seeds that change."""
    front.load(workflow(loader("style.safetensors", 0.5)), {**PLACES, 20: (350, 60), 120: (350, 420)})
    front.page.evaluate(
        "app.graph.getNodeById(6).widgets.find(w => w.name === 'control_after_generate').value = 'fixed'"
    )
    assert front.run() == "success"
    assert front.shows(20, APPLIED)
    return front


def set_strength(front, strength: float) -> None:
    front.page.evaluate(
        """strength => {
            const widget = app.graph.getNodeById(20).widgets.find(widget => widget.name === 'strength_model');
            widget.value = strength;
            widget.callback(strength);
            app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState();
        }""",
        strength,
    )
    front.still()


def test_the_badge_is_grey_while_the_strength_or_a_connection_is_another(ran):
    set_strength(ran, 0.25)
    assert ran.shows(20, PAST)
    set_strength(ran, 0.5)
    assert ran.shows(20, APPLIED)
    ran.page.evaluate("app.graph.getNodeById(20).disconnectInput('clip')")
    assert ran.shows(20, PAST)


def test_an_undo_is_one_step_and_brings_the_report_back(ran):
    set_strength(ran, 0.25)
    ran.undo()
    assert ran.values(20)["strength_model"] == 0.5
    assert ran.shows(20, APPLIED)


def test_the_report_comes_back_with_a_cached_run_and_a_tab(ran, front_server):
    assert ran.run() == "success"
    assert ran.shows(20, APPLIED)
    graph = ran.page.evaluate("app.graph.serialize()")
    assert str(front_server.base) not in json.dumps(graph)
    ran.page.evaluate("() => app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    ran.page.wait_for_function("app.graph.nodes.length === 0")
    ran.page.evaluate("() => app.extensionManager.command.execute('Workspace.PreviousOpenedWorkflow')")
    ran.page.wait_for_function("app.graph.nodes.length > 5")
    assert ran.shows(20, APPLIED)


def test_the_report_comes_back_with_a_reload(ran):
    ran.reload()
    ran.page.wait_for_function("app.graph.nodes.length > 5", timeout=60_000)
    assert ran.shows(20, APPLIED)


@pytest.fixture
def changes(front, front_server):
    """A file that is there, and offered, for one test only: the chooser's tests count files."""
    path = front_server.base / "models/loras/changes.safetensors"
    yield path
    path.unlink()
    front.page.evaluate("() => app.refreshComboInNodes()")


def test_another_file_of_the_same_name_is_another(front, changes):
    save_file(lokr(LAYERS, 7), changes)
    front.page.evaluate("() => app.refreshComboInNodes()")
    front.load(workflow(loader("changes.safetensors", 0.5)), PLACES)
    assert front.run() == "success"
    graph = front.page.evaluate("app.graph.serialize()")
    save_file(lokr(LAYERS, 8), changes)
    front.page.evaluate("async () => (await import('/extensions/comfyui-lokr/api.js')).listAdapters({fresh: true})")
    front.page.evaluate("graph => app.loadGraphData(graph)", graph)
    assert front.shows(20, PAST)


def test_a_missing_file_is_one_error_with_near_names_on_the_badge_too(front, front_server):
    prompt = workflow(loader("stlye.safetensors", 3.7, 3.7))
    answer = front_server.queue(prompt)
    (error,) = answer["node_errors"]["20"]["errors"]
    assert "near: style.safetensors" in error["details"]
    front.load(prompt, PLACES)
    front.page.get_by_test_id("queue-button").click()
    front.page.wait_for_function("app.graph.getNodeById(20).has_errors")
    assert front.shows(20, ("error", "There is no such adapter file"))
    front.page.keyboard.press("Escape")
    front.face(20, "badge").dispatch_event("click")
    assert "near: style.safetensors" in front.dialog("report").inner_text()
    front.page.keyboard.press("Escape")
    front.face(20, "choose").dispatch_event("click")
    front.page.keyboard.type("style")
    front.page.keyboard.press("Enter")
    assert front.run() == "success"
    assert front.badge(20)[0] == "ok"
