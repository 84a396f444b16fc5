"""The pictures of what web/ adds to the front end, dark and light: ``python docs/screenshots_faces.py``.

Needs what docs/screenshots.py needs. The adapter is random, of SD1.5's names and shapes, and acts on a few blocks.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Locator, sync_playwright
from safetensors.torch import save_file

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from tests.browser.conftest import METADATA  # noqa: E402
from tests.browser.front import ARGUMENTS, Front, opened  # noqa: E402
from tests.browser.test_plain import STACK  # noqa: E402
from tests.comfyui.test_server import LAYERS, loader, lokr, workflow  # noqa: E402
from tests.hosts import find_comfyui  # noqa: E402

IMAGES = PROJECT / "docs" / "images"


def some_blocks() -> dict[str, tuple[int, ...]]:
    """Attention and feed-forward layers in and around the UNet's middle block."""
    layers = {}
    for block, width in (("down_blocks_1", 640), ("down_blocks_2", 1280), ("mid_block", 1280), ("up_blocks_1", 1280)):
        inside = f"lora_unet_{block}_attentions_0_transformer_blocks_0"
        for attention in ("attn1", "attn2"):
            layers[f"{inside}_{attention}_to_q"] = (width, width)
            layers[f"{inside}_{attention}_to_out_0"] = (width, width)
        layers[f"{inside}_ff_net_0_proj"] = (8 * width, width)
        layers[f"lora_unet_{block}_resnets_0_conv1"] = (width, width, 3, 3)
    return layers


def shoot(front: Front, what: Locator, name: str) -> None:
    front.page.wait_for_timeout(600)
    what.screenshot(path=str(IMAGES / name))
    print(name, flush=True)


def pictures(front: Front, suffix: str) -> None:
    """Each face once: the rows and badges after a run, the info dialog, the chooser, blocks and curve."""
    page = front.page
    rows = {
        **STACK,
        "strength_model_1": 0.7 if suffix else 0.8,
    }  # a cached node sends no badge
    prompt = workflow({"class_type": "LoKrStack", "inputs": rows}, loader("partial.safetensors", 0.8, mode="live"))
    front.load(prompt, {20: (0, 0), 21: (0, 420), 1: (700, 0), 5: (700, 300), 121: (700, 200)})
    assert front.run() == "success"
    page.wait_for_timeout(4000)  # until ComfyUI's notification has gone
    page.screenshot(path=str(IMAGES / f"stack{suffix}.png"), clip={"x": 60, "y": 84, "width": 530, "height": 700})
    print(f"stack{suffix}.png", flush=True)
    front.face(20, "file-1").click()
    front.dialog("files").locator("img").first.wait_for()
    shoot(front, front.dialog("files"), f"files{suffix}.png")
    page.keyboard.press("Escape")

    front.empty()
    node = front.add("LoKrLoader")
    page.evaluate("id => app.graph.getNodeById(id).widgets[0].value = 'blocks.safetensors'", node)
    front.face(node, "info").click()
    front.dialog("info").locator(".lokr-heat").wait_for()
    shoot(front, front.dialog("info"), f"info{suffix}.png")
    page.keyboard.press("Escape")

    front.empty()
    node = front.add("LoKrBlockStrengths")
    front.face(node, "edit").click()
    dialog = front.dialog("blocks")
    dialog.get_by_label("Architecture").select_option("SDXL")
    dialog.get_by_label("Strengths as text").fill("IN:0.5, IN7-8:1\nMID:1.2\nOUT0-1:0.8, OUT6-8:0\n*attn2*=0.3")
    shoot(front, dialog, f"blocks{suffix}.png")
    page.keyboard.press("Escape")

    front.empty()
    node = front.add("LoKrSchedule", (0, 0))
    page.evaluate(
        """id => {
            const node = app.graph.getNodeById(id);
            const set = (name, value) => {
                const widget = node.widgets.find(widget => widget.name === name);
                widget.value = value;
                widget.callback?.(value);
            };
            set('keyframes', '0:0, 0.3:1, 0.7:0.8, 1:0.2');
            set('ease', 'ease in-out');
            set('start', 0.1);
        }""",
        node,
    )
    page.wait_for_timeout(600)
    page.screenshot(path=str(IMAGES / f"schedule{suffix}.png"), clip={"x": 40, "y": 84, "width": 380, "height": 460})
    print(f"schedule{suffix}.png", flush=True)


def main() -> None:
    host = find_comfyui()
    assert host is not None, "no ComfyUI: set COMFYUI_PATH and COMFYUI_PYTHON"
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        checkpoint = base / "models/checkpoints/sd15-float16.safetensors"
        checkpoint.parent.mkdir(parents=True)
        host.run(base, {"do": "make_sd15", "path": str(checkpoint), "dtype": "float16"})
        loras = base / "models/loras"
        other_model = {"lora_unet_double_blocks_0_img_attn_qkv": (768, 256)}
        save_file(lokr(LAYERS, 0), str(loras / "style.safetensors"), metadata=METADATA)
        save_file(lokr(LAYERS, 1), str(loras / "other.safetensors"))
        save_file(lokr({**LAYERS, **other_model}, 3), str(loras / "partial.safetensors"))
        save_file(lokr(some_blocks(), 2), str(loras / "blocks.safetensors"), metadata=METADATA)
        for name in ("style", "blocks"):
            (loras / f"{name}.png").write_bytes((IMAGES / "demo.png").read_bytes())
        with host.serve(base) as server, sync_playwright() as playwright:
            chromium = os.environ.get("CHROMIUM", "/usr/bin/chromium")
            browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
            for theme, vue, suffix in (("dark", False, ""), ("light", True, "-light")):
                with opened(browser, server.url, (1300, 900), theme=theme, vue=vue) as front:
                    pictures(front, suffix)
            browser.close()


if __name__ == "__main__":
    main()
