"""The pictures of the README, taken from the real front end: ``python docs/screenshots.py``.

Needs a ComfyUI (COMFYUI_PATH, COMFYUI_PYTHON), Debian's chromium, and ``pip install playwright``. The model is random
and small, made for the occasion, so what it paints is noise; the graph is what is to be seen.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright
from safetensors.torch import save_file

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from tests.comfyui.test_server import LAYERS, loader, lokr, workflow  # noqa: E402
from tests.hosts import find_comfyui  # noqa: E402

IMAGES = PROJECT / "docs" / "images"
# node id -> its place in the picture
PLACES = {1: (30, 60), 20: (350, 60), 3: (800, 60), 4: (800, 240), 5: (800, 420), 6: (1140, 60), 7: (1480, 60)}
PLACES |= {8: (1480, 190), 120: (30, 340)}


def open_graph(page: Page, url: str, prompt: dict) -> None:
    page.goto(url)
    page.wait_for_function("window.app && window.app.graph && window.app.extensionManager", timeout=60_000)
    page.wait_for_timeout(3000)
    page.keyboard.press("Escape")
    page.evaluate("prompt => window.app.loadApiJson(prompt, 'lokr')", prompt)
    page.wait_for_timeout(1000)
    page.evaluate(
        """places => {
            for (const [id, [x, y]] of Object.entries(places)) {
                const node = window.app.graph.getNodeById(Number(id)) ?? window.app.graph.getNodeById(id);
                if (node) { node.pos = [x, y]; if (node.computeSize) node.setSize(node.computeSize()); }
            }
            const loader = window.app.graph.getNodeById(20);
            if (loader) loader.setSize([390, 210]);
            const saved = window.app.graph.getNodeById(8);
            if (saved) saved.setSize([300, 300]);
            const report = window.app.graph.getNodeById(120);
            if (report) report.setSize([710, 230]);
            window.app.canvas.ds.scale = 0.8;
            window.app.canvas.ds.offset = [60, 90];
            window.app.graph.setDirtyCanvas(true, true);
        }""",
        {str(key): value for key, value in PLACES.items()},
    )


def main() -> None:
    host = find_comfyui()
    assert host is not None, "no ComfyUI: set COMFYUI_PATH and COMFYUI_PYTHON"
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        checkpoint = base / "models/checkpoints/sd15-float16.safetensors"
        checkpoint.parent.mkdir(parents=True)
        host.run(base, {"do": "make_sd15", "path": str(checkpoint), "dtype": "float16"})
        save_file(lokr(LAYERS, 0), str(base / "models/loras/style.safetensors"))
        with host.serve(base) as server, sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"),
                args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
            )
            page = browser.new_page(viewport={"width": 1640, "height": 640})
            open_graph(page, server.url, workflow(loader("style.safetensors", 0.8)))
            page.evaluate("window.app.queuePrompt(0, 1)")
            page.wait_for_function("window.app.graph.getNodeById(8)?.imgs?.length > 0", timeout=120_000)
            page.wait_for_timeout(1500)
            page.screenshot(path=str(IMAGES / "loader.png"))
            graph = page.evaluate("window.app.graph.serialize()")
            (PROJECT / "example_workflows" / "lokr_loader.json").write_text(json.dumps(graph, indent=1) + "\n")
            browser.close()


if __name__ == "__main__":
    main()
