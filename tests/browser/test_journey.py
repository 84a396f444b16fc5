"""A person finds the loader, picks a file, connects it, moves the slider, runs; saves, opens it, drops the picture."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from PIL import Image

from tests.comfyui.test_server import loader, workflow

PLACES = {1: (0, 0), 3: (750, 0), 4: (750, 230), 5: (750, 450), 6: (1180, 0), 7: (1180, 320), 8: (1180, 420)}


def picture(server) -> np.ndarray:
    """The image that the last run saved."""
    last = max(server.get("/history").values(), key=lambda entry: entry["prompt"][0])
    (saved,) = last["outputs"]["8"]["images"]
    with Image.open(server.base / "output" / saved["filename"]) as image:
        return np.asarray(image)


@pytest.fixture
def canvas(front):
    """A workflow without an adapter, its middle free; the seed stands still."""
    front.load(workflow(), PLACES)
    front.page.evaluate(
        """() => {
            const sampler = app.graph.getNodeById(6);
            sampler.widgets.find(widget => widget.name === 'control_after_generate').value = 'fixed';
            app.canvas.ds.scale = 0.9;
            app.graph.setDirtyCanvas(true, true);
        }"""
    )
    front.still()
    return front


def find_node(front, title: str, x: int, y: int) -> int:
    """Double click on the canvas, search, pick: the new node's id."""
    known = front.page.evaluate("app.graph.nodes.map(node => node.id)")
    front.search((x, y), "lokr", title)
    front.page.get_by_text(title, exact=True).first.click()
    front.page.wait_for_function("count => app.graph.nodes.length > count", arg=len(known))
    front.still()
    front.page.mouse.move(x + 5, y + 5)
    front.page.mouse.click(x, y)  # the new node hangs on the mouse until then
    front.still()
    (new,) = set(front.page.evaluate("app.graph.nodes.map(node => node.id)")) - set(known)
    return new


def test_from_search_to_image_and_back(canvas, front_server):
    front = canvas
    node = find_node(front, "LoKr Loader", 400, 450)
    front.face(node, "choose").click()
    front.page.keyboard.type("style")
    front.page.keyboard.press("Enter")
    front.dialog("files").wait_for(state="detached")
    front.still(8)
    level, text = front.badge(node)
    assert level == "file"
    assert text.startswith("LoKr")
    for output, name in (("MODEL", "model"), ("CLIP", "clip")):
        front.connect(1, output, node, name)
    front.connect(node, "model", 6, "model")
    front.connect(node, "clip", 3, "clip")
    assert front.api(6)["model"] == [str(node), 0]
    assert front.api(3)["clip"] == [str(node), 1]
    assert front.run() == "success"
    level, text = front.badge(node)
    assert (level, text[:11]) == ("ok", "4/4 applied")
    first = picture(front_server)

    move_slider(front, node, "strength_model")
    strength = front.values(node)["strength_model"]
    assert strength != 1
    assert front.run() == "success"
    assert front.shows(node, ("ok", "4/4 applied · live"))
    second = picture(front_server)
    assert not np.array_equal(first, second)

    before = front.serialized()
    name = "vue" if front.vue else "litegraph"
    front.page.keyboard.press("Control+s")
    front.page.get_by_role("dialog").get_by_role("textbox").fill(f"lokr {name}")
    front.page.keyboard.press("Enter")
    front.page.wait_for_function("!app.extensionManager.workflow.activeWorkflow.isModified")
    assert (front_server.base / f"user/default/workflows/lokr {name}.json").is_file()
    front.reload()
    front.page.wait_for_function("app.graph.nodes.length > 5", timeout=60_000)
    front.still(8)
    assert front.serialized() == before

    front.empty()
    images = sorted((front_server.base / "output").glob("*.png"), key=lambda path: path.stat().st_mtime)
    front.drop_file(images[-1], "image/png")
    front.page.wait_for_function("count => app.graph.nodes.length === count", arg=len(before))
    front.still(8)
    assert front.serialized() == before
    assert front.values(node)["strength_model"] == strength
    assert front.run() == "success"


def move_slider(front, node: int, name: str) -> None:
    """Drag a loader's slider to the left."""
    box = front.face(node, name).bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    front.drag(middle, (middle[0] - 20, middle[1]))


def test_a_partial_match_is_amber_with_its_reasons(front):
    front.load(workflow(loader("partial.safetensors", 0.5)), {**PLACES, 20: (350, 60), 120: (350, 420)})
    assert front.run() == "success"
    assert front.shows(20, ("warn", "4/5 · 1 not found · merge"))
    front.face(20, "badge").click()
    dialog = front.dialog("report")
    assert "no such weight" in dialog.inner_text()
    assert "lora_unet_double_blocks_0_img_attn_qkv" in dialog.inner_text()


def test_an_error_is_red_and_goes_with_the_next_run(front):
    prompt = workflow(loader("nothing.safetensors", 0.5))
    front.load(prompt, {**PLACES, 20: (350, 60), 120: (350, 420)})
    assert front.run() == "error"
    front.page.keyboard.press("Escape")
    level, text = front.badge(20)
    assert level == "error"
    assert "None of the 1 modules" in text
    front.page.keyboard.press("Escape")
    front.page.evaluate("document.querySelector('dialog[open], .p-dialog-close-button')?.click()")
    front.face(20, "choose").dispatch_event("click")
    front.page.keyboard.type("style")
    front.page.keyboard.press("Enter")
    assert front.run() == "success"
    assert front.shows(20, ("ok", "4/4 applied · merge"))


def test_a_file_that_is_not_there_is_marked_until_another_runs(front):
    marked = "app.graph.getNodeById(20).has_errors"
    front.load(workflow(loader("gone.safetensors", 0.35)), {**PLACES, 20: (350, 60), 120: (350, 420)})
    front.page.get_by_test_id("queue-button").click()
    front.page.wait_for_function(marked)
    front.page.keyboard.press("Escape")
    front.face(20, "choose").dispatch_event("click")
    front.page.keyboard.type("style")
    front.page.keyboard.press("Enter")
    assert front.run() == "success"
    front.page.wait_for_function(f"!{marked}")


def test_a_strength_moved_while_a_run_goes_on_is_the_next_runs(front, front_server):
    prompt = copy.deepcopy(workflow(loader("style.safetensors", 1.0, mode="live")))
    prompt["6"]["inputs"]["steps"] = 20
    front.load(prompt, {**PLACES, 20: (350, 60), 120: (350, 420)})
    front.page.evaluate(
        """() => {
            window.started = 0;
            app.api.addEventListener('execution_start', () => window.started++);
            window.finished = 0;
            app.api.addEventListener('execution_success', () => window.finished++);
            app.graph.getNodeById(6).widgets.find(w => w.name === 'control_after_generate').value = 'fixed';
        }"""
    )
    run = front.page.get_by_test_id("queue-button")
    run.click()
    front.page.wait_for_function("window.started === 1", timeout=60_000)
    move_slider(front, 20, "strength_model")
    moved = front.values(20)["strength_model"]
    assert moved != 1
    run.click()
    front.page.wait_for_function("window.finished === 2", timeout=180_000)
    runs = sorted(front_server.get("/history").values(), key=lambda entry: entry["prompt"][0])[-2:]
    assert [entry["prompt"][2]["20"]["inputs"]["strength_model"] for entry in runs] == [1, moved]
    shown = [entry["outputs"]["8"]["images"][0]["filename"] for entry in runs]
    first, second = (np.asarray(Image.open(front_server.base / "output" / name)) for name in shown)
    assert not np.array_equal(first, second)
