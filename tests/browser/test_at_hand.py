"""Files and pictures at hand: a dropped adapter, a picture that becomes a preview, names that a prompt completes."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import save_file

from tests.browser.test_journey import PLACES
from tests.comfyui.test_server import LAYERS, loader, lokr, workflow


def test_a_dropped_file_of_a_models_folder_makes_a_loader_with_it(front, front_server):
    front.drop_file(front_server.base / "models/loras/people/face.safetensors", "application/octet-stream")
    front.page.wait_for_function("app.graph.nodes.length === 1")
    node = front.page.evaluate("app.graph.nodes[0].id")
    assert front.values(node)["lokr_name"] == "people/face.safetensors"
    front.still(8)
    front.undo()
    assert front.page.evaluate("app.graph.nodes.length") == 0


def test_another_dropped_adapter_says_where_to_put_it(front, tmp_path):
    # Of the name of one that is there, and another header.
    save_file(lokr(LAYERS, 77, rank=2), str(tmp_path / "face.safetensors"))
    front.drop_file(tmp_path / "face.safetensors", "application/octet-stream")
    said = front.dialog("dropped").inner_text()
    assert "face.safetensors" in said and "models/loras or models/lokr" in said
    assert front.page.evaluate("app.graph.nodes.length") == 0


@pytest.fixture
def no_preview(front_server):
    """other.safetensors without a picture, before and after."""
    path = front_server.base / "models/loras/other.png"
    path.unlink(missing_ok=True)
    yield path
    path.unlink(missing_ok=True)


def comes_to_be(front, path: Path, size: tuple[int, int]) -> bool:
    """Whether a picture of that size is there, after a while: the machine may be busy."""
    for _ in range(75):
        if path.exists():
            with Image.open(path) as picture:
                if picture.size == size:
                    return True
        front.page.wait_for_timeout(200)
    return False


def test_a_picture_becomes_the_preview_and_replaces_another_only_when_asked(front, no_preview):
    front.load(workflow(loader("other.safetensors", 0.5)), {**PLACES, 8: (700, 60)})
    assert front.run() == "success"
    item = """() => {
        const extension = app.extensions.find(extension => extension.name === 'comfyui-lokr');
        const items = extension.getNodeMenuItems(app.graph.getNodeById(8));
        items.find(item => item.content === 'LoKr: use this picture as preview of other.safetensors').callback();
    }"""
    front.page.evaluate(item)
    assert comes_to_be(front, no_preview, (64, 64))
    Image.new("RGB", (8, 8)).save(no_preview)
    front.page.evaluate(item)
    front.dialog("replace").get_by_role("button", name="Keep the picture").click()
    assert comes_to_be(front, no_preview, (8, 8))
    front.page.evaluate(item)
    front.dialog("replace").get_by_role("button", name="Replace the picture").click()
    assert comes_to_be(front, no_preview, (64, 64))


def test_the_prompt_loader_completes_names(front):
    node = front.add("LoKrPromptLoader", (200, 100))
    if front.vue:
        field = front.page.locator(f"[data-node-id='{node}'] textarea")
    else:
        front.page.evaluate("id => app.graph.getNodeById(id).widgets[0].element.id = 'prompt'", node)
        field = front.page.locator("#prompt")
    field.click()
    front.page.keyboard.type("a house <lokr:fac")
    front.page.locator("#lokr-completion [role=option]").first.wait_for()
    front.page.keyboard.press("Enter")
    assert field.input_value() == "a house <lokr:face:1>"
    assert front.values(node)["prompt"] == "a house <lokr:face:1>"
    front.page.keyboard.type(" <lokr:st")
    front.page.locator("#lokr-completion [role=option]").first.wait_for()
    front.page.keyboard.press("Escape")
    assert front.page.locator("#lokr-completion").count() == 0
    assert field.input_value() == "a house <lokr:face:1> <lokr:st"
