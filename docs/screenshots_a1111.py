"""The pictures of A1111 in the docs, taken from a real one: ``python docs/screenshots_a1111.py``.

Needs A1111_PATH, A1111_PYTHON and a checkpoint there, Debian's chromium, and ``pip install playwright pillow``. The
checkpoint may be random; the adapters and their previews are.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw
from playwright.sync_api import Page, sync_playwright

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from tests.hosts import find_a1111  # noqa: E402
from tests.webui.adapters import attention, lokr, save, text_layers  # noqa: E402

IMAGES = PROJECT / "docs" / "images"
LAYERS = {"unet": attention("down_blocks.1.attentions.0", 640, 768), "te": text_layers(768)}
TRAINED = {
    "ss_network_module": "lycoris.kohya",
    "ss_network_dim": "4",
    "ss_network_alpha": "4",
    "ss_steps": "2000",
    "ss_network_args": json.dumps({"algo": "lokr", "factor": "8"}),
}
# File -> trigger words, description, colours of paper and ink.
CARDS = {
    "ink drawing": ("ink drawing", "Pen and ink, hatched", "#efe8d6", "#26262b"),
    "night": ("at night", "Long exposures", "#141c38", "#e7c868"),
    "watercolour [v2]": ("watercolour", "Wet on wet", "#cfe4e2", "#35718a"),
    "woodcut": ("woodcut print", "Two blocks", "#e9d9c2", "#8c3423"),
}


def make_files(models: Path) -> None:
    for seed, (name, (words, description, paper, ink)) in enumerate(CARDS.items()):
        metadata = {
            **TRAINED,
            "modelspec.trigger_phrase": words,
            "ss_tag_frequency": json.dumps({"1": {words: 40, "sea": 12}}),
        }
        path = save(lokr(LAYERS, seed=seed), models / "LoKr" / f"{name}.safetensors", **metadata)
        notes = {"description": description, "activation text": words, "preferred weight": 0.8}
        path.with_suffix(".json").write_text(json.dumps(notes))
        picture = Image.new("RGB", (256, 384), paper)
        draw = ImageDraw.Draw(picture)
        draw.rectangle([0, 320, 256, 384], fill=ink)
        draw.polygon([(104, 320), (118, 130), (138, 130), (152, 320)], fill=ink)
        draw.ellipse([110, 96, 146, 132], fill=ink)
        picture.save(path.with_suffix(".png"))


def shoot(page: Page, url: str) -> None:
    page.route("**/*", lambda route: route.continue_() if url in route.request.url else route.abort())
    page.goto(url, wait_until="domcontentloaded")
    page.wait_for_selector("#txt2img_lokr_cards .card", state="attached", timeout=120_000)
    page.locator("#txt2img_extra_tabs > .tab-nav button", has_text="LoKr").click()
    page.wait_for_timeout(3000)
    page.mouse.move(0, 0)
    cards = page.locator("#txt2img_lokr_cards").bounding_box()
    page.screenshot(path=IMAGES / "a1111-tab.png", clip={**cards, "height": 405})
    for name in ("ink drawing", "night"):
        page.click(f'#txt2img_lokr_cards .card[data-name="{name}"]')
    page.click('#txt2img_lokr_cards .card[data-name="woodcut"]', button="right")
    report = page.locator("#txt2img_lokr_edit_user_metadata .lokr-report summary")
    report.click(timeout=120_000)
    page.wait_for_timeout(1000)
    page.locator("#txt2img_lokr_edit_user_metadata").screenshot(path=IMAGES / "a1111-card.png")
    page.keyboard.press("Escape")
    page.locator("#txt2img_extra_tabs > .tab-nav button", has_text="Generation").click()
    page.get_by_role("button", name="TE | UNet").last.click()
    page.get_by_label("UNet of night").last.fill("0.6")
    page.wait_for_function("() => [...document.querySelectorAll('.lokr-status')].every(s => s.textContent)")
    page.wait_for_timeout(1000)
    page.locator("#txt2img_lokr_accordion").screenshot(path=IMAGES / "a1111-panel.png")


def main() -> None:
    host = find_a1111()
    assert host is not None, "no A1111: set A1111_PATH and A1111_PYTHON"
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        base = Path(folder)
        make_files(base / "models")
        with host.serve(base, page=True) as server:
            server.post("/sdapi/v1/txt2img", {"prompt": "", "steps": 1, "width": 64, "height": 64})  # loads the model
            browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
            shoot(browser.new_page(viewport={"width": 1200, "height": 1500}), server.url)
            browser.close()


if __name__ == "__main__":
    main()
