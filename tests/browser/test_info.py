"""The info dialog: what is in a file, and where it acts, as `lokr inspect --json` says it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest
from safetensors.torch import save_file

from tests.comfyui.test_server import lokr


@pytest.fixture
def info(front):
    """The dialog on style.safetensors, opened by the loader's button."""
    node = front.add("LoKrLoader")
    front.page.evaluate("id => app.graph.getNodeById(id).widgets[0].value = 'style.safetensors'", node)
    front.face(node, "info").click()
    dialog = front.dialog("info")
    dialog.locator(".lokr-heat").wait_for()
    return dialog


def test_facts_and_metadata(info):
    facts = info.locator(".lokr-facts").inner_text().split("\n")
    assert facts[facts.index("modules") + 1] == "4"
    assert facts[facts.index("kind") + 1] == "LoKr"
    assert "modelspec.title" in info.locator(".lokr-metadata dt").all_inner_texts()
    assert "Lighthouses" in info.locator(".lokr-metadata dd").all_inner_texts()


def test_the_heat_map_is_that_of_inspect(info, front_server):
    path = front_server.base / "models/loras/style.safetensors"
    command = [sys.executable, "-m", "lokr_core.cli", "inspect", "--json", str(path)]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    heat = told["heat"]
    assert info.locator(".lokr-heat tbody th").all_inner_texts() == heat["rows"]
    assert info.locator(".lokr-heat thead th").all_inner_texts()[1:] == heat["columns"]
    shown = {}
    for cell in info.locator(".lokr-heat-cell").all():
        where, _, value = cell.get_attribute("title").partition(": ‖ΔW‖ = ")
        shown[where] = float(value)
    expected = {
        f"{row}, {column}": value
        for row, values in zip(heat["rows"], heat["values"], strict=True)
        for column, value in zip(heat["columns"], values, strict=True)
        if value is not None
    }
    assert len(expected) == 4
    assert shown == expected


def test_trigger_words_are_copied(info, front):
    info.get_by_role("button", name='Copy "lghths style"').click()
    assert front.page.evaluate("navigator.clipboard.readText()") == "lghths style"
    assert info.get_by_text("copied: lghths style").count() == 1


def test_factors_and_picture(info):
    lines = [line.split("\t") for line in info.locator(".lokr-table tbody tr").all_inner_texts()]
    (conv,) = (line for line in lines if "mid_block_resnets" in line[0])
    # The file holds a convolution's kernel flattened into its columns.
    assert conv[1:4] == ["640 × 5760", "8×8", "80×720 of rank 4"]
    picture = info.locator("img.lokr-preview")
    assert picture.evaluate("async image => (await image.decode(), image.naturalWidth)") == 256


def test_what_is_beside_a_file_is_shown_as_text_with_its_hash_and_what_is_a_guess(front, loras):
    file = loras / "people/flux.safetensors"
    save_file(lokr({"lora_unet_double_blocks_0_img_attn_qkv": (768, 256)}, 31), str(file))
    sidecar = {"activation text": "by the sea", "notes": "<b>bold</b>", "preferred weight": 0.7}
    file.with_suffix(".json").write_text(json.dumps(sidecar))
    node = front.add("LoKrLoader")
    front.page.evaluate("id => app.graph.getNodeById(id).widgets[0].value = 'people/flux.safetensors'", node)
    front.face(node, "info").click()
    dialog = front.dialog("info")
    dialog.locator("[data-key='hash']").click()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    dialog.get_by_text(f"SHA256 {digest} · AutoV2 {digest[:10]}").wait_for()
    facts = [line for part in dialog.locator(".lokr-facts").all_inner_texts() for line in part.split("\n")]
    assert facts[facts.index("file") + 1] == "people/flux.safetensors"
    assert facts[facts.index("base model") + 1] == "Flux.1 (guessed from its names)"
    assert {"size", "date"} < set(facts)
    assert facts[facts.index("preferred strength") + 1] == "0.7"
    assert facts[facts.index("notes") + 1] == "<b>bold</b>"
    assert dialog.get_by_role("button", name='Copy "by the sea"').count() == 1


def test_a_file_that_is_gone_is_told(front):
    node = front.add("LoKrLoader")
    front.page.evaluate("id => app.graph.getNodeById(id).widgets[0].value = '../gone.safetensors'", node)
    front.face(node, "info").click()
    error = front.dialog("info").locator(".lokr-error")
    error.wait_for()
    assert "There is no such adapter file" in error.inner_text()


def test_the_menu_and_a_command_open_it(front):
    node = front.add("LoKrLoader")
    front.page.evaluate(
        """id => {
            const node = app.graph.getNodeById(id);
            node.widgets[0].value = 'style.safetensors';
            app.canvas.selectNode(node);
            app.extensionManager.command.execute('LoKr.Info');
        }""",
        node,
    )
    front.dialog("info").wait_for()
    front.page.keyboard.press("Escape")
    front.page.mouse.click(*front.title(node), button="right")
    item = front.page.get_by_text("LoKr info: ")
    inside = front.page.get_by_text("Extensions", exact=True)  # where the menu of Vue nodes keeps them
    item.or_(inside).first.wait_for()
    if not item.count():
        inside.first.click()
    item.first.click()
    front.dialog("info").wait_for()
