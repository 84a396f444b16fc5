"""What a person is told: a wrong base model, a missing file at the queue, the report of a cached run, in full."""

from __future__ import annotations

import pytest

from tests.browser.front import opened
from tests.browser.test_journey import PLACES
from tests.browser.test_plain import STACK
from tests.comfyui.test_server import loader, workflow


def test_a_wrong_base_model_is_told_first_by_toast_and_badge(front):
    front.load(workflow(loader("nothing.safetensors", 0.5)), {**PLACES, 20: (350, 60)})
    assert front.run() == "error"
    said = "Wrong base model: this looks like an adapter for Flux.1; the model is Stable Diffusion 1.x"
    assert front.badge(20)[1].startswith(said)
    toast = front.page.get_by_text("LoKr: Wrong base model").first
    toast.wait_for()
    assert toast.inner_text().startswith("LoKr: Wrong base model")
    front.page.keyboard.press("Escape")


def test_a_stacks_missing_file_is_one_error_at_the_queue_and_its_row_is_red(front, front_server):
    rows = {**STACK, "row_2.lokr_2": "stlye.safetensors"}
    prompt = workflow({"class_type": "LoKrStack", "inputs": rows})
    (error,) = front_server.queue(prompt)["node_errors"]["20"]["errors"]
    assert error["details"].startswith("Row 2 (stlye.safetensors): There is no such adapter file")
    assert "near: style.safetensors" in error["details"]
    front.load(prompt, {**PLACES, 20: (350, 60)})
    front.page.get_by_test_id("queue-button").click()
    front.page.wait_for_function("document.querySelectorAll('.lokr-row')[1]?.dataset.level === 'error'")
    assert front.badge(20)[1].startswith("Row 2 (stlye.safetensors): There is no such adapter file")
    front.page.keyboard.press("Escape")


def test_a_missing_file_in_a_row_that_is_off_is_no_error(front_server):
    rows = {**STACK, "row_2.lokr_2": "gone.safetensors", "row_2.on_2": False}
    assert "prompt_id" in front_server.queue(workflow({"class_type": "LoKrStack", "inputs": rows}))


@pytest.mark.parametrize("vue", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
def test_a_page_that_does_not_know_a_cached_run_shows_its_report(browser, front_server, vue):
    prompt = workflow(loader("style.safetensors", 0.37))
    assert "prompt_id" in front_server.queue(prompt)
    with opened(browser, front_server.url, vue=vue) as other:
        other.load(prompt, {**PLACES, 20: (350, 60)})
        other.page.evaluate(
            "app.graph.getNodeById(6).widgets.find(w => w.name === 'control_after_generate').value = 'fixed'"
        )
        for _ in range(2):
            assert other.run() == "success"
        assert other.shows(20, ("ok", "4/4 applied · merge"))


def test_the_report_has_file_strengths_mode_groups_and_is_copied(front):
    front.load(workflow(loader("partial.safetensors", 0.5, 0.25)), {**PLACES, 20: (350, 60)})
    assert front.run() == "success"
    front.face(20, "badge").click()
    dialog = front.dialog("report")
    facts = dialog.locator(".lokr-facts").inner_text().split("\n")
    assert facts[facts.index("file") + 1] == "partial.safetensors"
    assert facts[facts.index("strength on the model") + 1] == "0.5"
    assert facts[facts.index("strength on the clip") + 1] == "0.25"
    assert facts[facts.index("mode") + 1] == "merge"
    assert "merge: as set on the node" in dialog.inner_text()
    dialog.locator("summary").click()
    assert dialog.locator("details tbody tr").count() == 5
    dialog.locator("[data-key='copy-report']").click()
    copied = front.page.evaluate("navigator.clipboard.readText()")
    assert "4 of 5 modules applied, 1 refused" in copied and "no such weight in this model" in copied


def test_the_loader_comes_first_in_a_search(front):
    front.search((400, 450), "lokr", "LoKr Loader")
    front.page.keyboard.press("Enter")
    front.page.wait_for_function("app.graph.nodes.length === 1")
    assert front.page.evaluate("app.graph.nodes[0].type") == "LoKrLoader"
    front.page.mouse.click(400, 450)
