"""The block editor: the model's blocks as sliders, presets, text; all in the two plain widgets."""

from __future__ import annotations

from itertools import product

import pytest

from lokr_core import LoKrValueError
from lokr_core.strengths import BLOCK_LAYOUTS, PRESETS, BlockStrengths


@pytest.fixture
def blocks(front):
    """A node of block strengths whose editor is open, on the blocks of SDXL."""
    node = front.add("LoKrBlockStrengths")
    front.face(node, "edit").click()
    dialog = front.dialog("blocks")
    dialog.get_by_label("Architecture").select_option("SDXL")
    dialog.locator("[data-key='OUT8']").wait_for()
    return node


def modules(architecture: str) -> dict[str, str]:
    """A layer in each block of an architecture, by the block's name."""
    groups = [group for group in BLOCK_LAYOUTS[architecture].groups if group.list]
    return {
        f"{group.name}{number}": f"{group.list}.{number}.0.attn"
        for group in groups
        for number in range(len(group.blocks))
    }


def strengths(front, node, architecture: str = "SDXL") -> dict[str, float]:
    """What lokr_core makes of the node's widgets, for each block."""
    layers = modules(architecture)
    values = front.values(node)
    factor = BlockStrengths.parse(f"{PRESETS[values['preset']]}\n{values['strengths']}").over(layers.values())
    return {block: factor(layer) for block, layer in layers.items()}


def slider(front, key: str):
    return front.dialog("blocks").locator(f"[data-key='{key}']")


def test_a_block_is_set_by_keys_and_by_mouse(front, blocks):
    slider(front, "IN4").focus()
    front.page.keyboard.press("ArrowDown")
    assert front.values(blocks)["strengths"] == "IN4:0.95"
    box = slider(front, "OUT1").bounding_box()
    front.drag((box["x"] + 60, box["y"] + 8), (box["x"] + 20, box["y"] + 8))
    assert front.values(blocks)["strengths"] == "IN4:0.95\nOUT1:0.6"
    assert strengths(front, blocks)["OUT1"] == 0.6
    slider(front, "all-MID").focus()
    front.page.keyboard.type("0")
    front.page.keyboard.press("Enter")
    assert front.values(blocks)["strengths"] == "IN4:0.95\nMID:0\nOUT1:0.6"


def test_a_unet_is_laid_out_down_and_up(front, blocks):
    tops = {key: slider(front, key).bounding_box()["y"] for key in ("IN0", "IN8", "OUT0", "OUT8")}
    assert tops["IN0"] < tops["IN8"]
    assert tops["OUT0"] > tops["OUT8"]
    assert slider(front, "IN0").bounding_box()["x"] < slider(front, "MID0").bounding_box()["x"]


def test_a_preset_is_a_start_and_sliders_go_on_top(front, blocks):
    dialog = front.dialog("blocks")
    dialog.get_by_label("Preset").select_option("UNet: output blocks only")
    assert slider(front, "IN3").get_attribute("aria-valuenow") == "0"
    assert slider(front, "OUT3").get_attribute("aria-valuenow") == "1"
    slider(front, "IN3").focus()
    front.page.keyboard.press("End")
    assert front.values(blocks) == {"preset": "UNet: output blocks only", "strengths": "IN3:2"}
    found = strengths(front, blocks)
    assert (found["IN3"], found["IN2"], found["OUT5"]) == (2, 0, 1)
    dialog.get_by_label("Set all blocks to 1").click()
    assert front.values(blocks) == {"preset": "none", "strengths": ""}


def test_text_is_copied_and_pasted(front, blocks):
    dialog = front.dialog("blocks")
    text = "ALL:0.5, *attn2*=0.3, IN2-4:1.5"
    dialog.get_by_label("Strengths as text").fill(text)
    assert slider(front, "IN3").get_attribute("aria-valuenow") == "1.5"
    assert slider(front, "IN5").get_attribute("aria-valuenow") == "0.5"
    dialog.get_by_label("Copy the text").click()
    dialog.get_by_label("Set all blocks to 1").click()
    assert front.values(blocks)["strengths"] == ""
    dialog.get_by_label("Paste a text").click()
    dialog.get_by_text("pasted").wait_for()
    assert front.values(blocks)["strengths"] == text


def test_a_wrong_text_is_told_below_it_as_it_is_typed(front, blocks):
    dialog = front.dialog("blocks")
    text, told = dialog.get_by_label("Strengths as text"), dialog.locator(".lokr-problems")
    assert told.inner_text() == ""
    text.fill("XYZ:1, MID:abc, IN99:1, *attn*=0.3, input_blocks.3:1, other:0, IN4:0.5")
    lines = told.inner_text().splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["XYZ", "MID:abc", "IN99"]
    assert "unknown block of SDXL; known: IN0 to IN8, MID0 to MID2, OUT0 to OUT8, OTHER, ALL" in lines[0]
    assert text.get_attribute("aria-invalid") == "true"
    text.fill("MID:0.5")
    assert told.inner_text() == ""


def test_undo_is_the_graphs_and_the_editor_follows(front, blocks):
    slider(front, "IN4").focus()
    front.page.keyboard.press("ArrowDown")
    front.page.keyboard.press("ArrowDown")
    assert front.values(blocks)["strengths"] == "IN4:0.9"
    front.undo()
    assert front.values(blocks)["strengths"] == "IN4:0.95"
    assert slider(front, "IN4").get_attribute("aria-valuenow") == "0.95"
    slider(front, "IN4").focus()
    front.page.keyboard.press("ArrowUp")
    assert front.values(blocks)["strengths"] == ""


def test_escape_closes_and_the_focus_goes_back(front, blocks):
    front.page.keyboard.press("Escape")
    front.dialog("blocks").wait_for(state="detached")
    assert front.focused() == "edit"


TEXTS = (
    "",
    "IN:0.2, MID:1, OUT4-8:0.5",
    "ALL:0, input_blocks.3:1",
    "IN:0.5, ALL:0.2, out5:1",
    "*attn*=0.3, IN:0.5, *ff*=0.1",
    "ALL:0.5, *attn*=0.3, IN2:0.9",
    "OTHER:0; mid=0.25",
)


def test_a_changed_text_changes_nothing_else(front):
    """Set one block on top of any text: lokr_core then has every other layer at the strength it had."""
    architecture = "SDXL"
    layers = [path for layer in modules(architecture).values() for path in (layer, layer.replace("attn", "ff"))]
    for text, preset in product(TEXTS, ("none", "UNet: without input blocks")):
        changed = front.page.evaluate(
            """async ([architecture, preset, text]) => {
                const {changedText} = await import('/extensions/comfyui-lokr/blocks_text.js');
                const layout = await (await app.api.fetchApi('/lokr/blocks?architecture=' + architecture)).json();
                return changedText(layout, preset, text, new Map([['OUT2', 0.75]]));
            }""",
            [architecture, PRESETS[preset], text],
        )
        before = BlockStrengths.parse(f"{PRESETS[preset]}\n{text}").over(layers)
        after = BlockStrengths.parse(f"{PRESETS[preset]}\n{changed}").over(layers)
        for layer in layers:
            if not layer.startswith("output_blocks.2."):
                assert after(layer) == before(layer), (text, changed, layer)
        patterns = "*" in text
        assert patterns or after("output_blocks.2.0.attn") == 0.75


def test_every_name_that_the_editor_writes_is_known_to_the_model():
    for architecture, layout in BLOCK_LAYOUTS.items():
        layers = list(modules(architecture).values())
        for group in layout.groups:
            for block in group.blocks:
                try:
                    BlockStrengths.parse(f"{block}:0.5").over(layers)
                except LoKrValueError as error:
                    raise AssertionError(f"{architecture}: {block}") from error
