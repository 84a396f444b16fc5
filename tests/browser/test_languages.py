"""The faces and dialogs in the language of the page: no visible word stays English."""

from __future__ import annotations

import json
import re

import pytest
from safetensors.torch import save_file

from tests.browser.front import Front, opened
from tests.browser.test_journey import PLACES
from tests.browser.test_plain import STACK
from tests.browser.test_train import workflow as training
from tests.comfyui.test_server import loader, lora, workflow
from tests.hosts import PROJECT

NAMES = ("LoKr", "CLIP", "w1", "w2", "SHA256", "AutoV2", "kohya-ss / LyCORIS", "merge", "live")

# What LoKr Train sends while it runs.
PROGRESS = {"node": "40", "step": 1, "steps": 3000, "seconds": 4.5, "curve": [[1, 0.5]]}

# Every text, label, tooltip and placeholder inside the pack's faces and dialogs that a person sees or hears.
VISIBLE = """() => {
    const found = [];
    for (const root of document.querySelectorAll('.lokr-face-host, dialog.lokr-dialog')) {
        for (const element of [root, ...root.querySelectorAll('*')]) {
            const data = 'code, pre, table.lokr-table td, dd, .lokr-metadata, .lokr-heat, [data-name]';
            if (element.closest(data)) continue;
            if (!element.getClientRects().length) continue;
            for (const name of ['aria-label', 'title', 'placeholder']) {
                const text = element.getAttribute(name);
                if (text) found.push(text);
            }
            for (const child of element.childNodes) {
                if (child.nodeType === Node.TEXT_NODE && child.textContent.trim()) found.push(child.textContent);
            }
        }
    }
    return found;
}"""


@pytest.fixture
def marked(browser, front_server):
    """A page whose language is one in which every text is between ⟦ and ⟧."""
    source = json.loads((PROJECT / "web/texts/de.json").read_text(encoding="utf-8"))
    texts = {part: {key: f"⟦{key}⟧" for key in entries} for part, entries in source.items()}
    context = browser.new_context(viewport={"width": 1500, "height": 900})
    context.route("**/texts/ko.json", lambda route: route.fulfill(json=texts))
    try:
        front = Front(context.new_page(), front_server.url, language="ko").open()
        yield front
    finally:
        context.close()


def in_english(texts: list[str], data: set[str]) -> list[str]:
    """Those of ``texts`` with a word that is neither between the marks, nor a file's, nor a name."""
    left = []
    for text in texts:
        for line in text.split("\n"):
            rest, depth = "", 0
            for sign in line:
                depth += sign == "⟦"
                rest += sign if not depth else ""
                depth -= sign == "⟧"
            for word in sorted({*data, *NAMES}, key=len, reverse=True):
                rest = rest.replace(word, "")
            block = re.fullmatch(r"[A-Z]{2,}\d*|i|", rest.strip())  # a block's name, the button "i"
            if any(sign.isalpha() for sign in rest) and not block:
                left.append(line)
    return left


def test_no_visible_word_is_missing(marked, loras):
    front, page = marked, marked.page
    data = {"style.safetensors", "other.safetensors", "partial.safetensors", "people/face.safetensors"}
    data |= {"nothing.safetensors", "lghths style", "Lighthouses", "style.png"}
    seen: list[str] = []

    def look() -> None:
        front.still(8)
        seen.extend(page.evaluate(VISIBLE))

    front.load(
        workflow({"class_type": "LoKrStack", "inputs": STACK}, loader("partial.safetensors", 0.5)),
        {**PLACES, 20: (0, 0), 21: (0, 380)},
    )
    look()
    assert front.run() == "success"
    look()
    front.face(21, "badge").dispatch_event("click")
    page.locator("summary").click()
    look()
    page.keyboard.press("Escape")
    front.face(21, "choose").dispatch_event("click")
    page.locator("[data-name]").first.wait_for()
    look()
    page.keyboard.press("Escape")
    front.face(21, "info").dispatch_event("click")
    page.locator(".lokr-heat").wait_for()
    look()
    page.keyboard.press("Escape")
    blocks, schedule = front.add("LoKrBlockStrengths", (600, 0)), front.add("LoKrSchedule", (600, 300))
    front.face(schedule, "badge").count()
    front.face(blocks, "edit").dispatch_event("click")
    front.dialog("blocks").get_by_role("slider").first.wait_for()
    page.locator(".lokr-blocks-editor textarea").fill("XYZ:1, IN0:abc")
    look()
    page.keyboard.press("Escape")
    front.empty()
    front.load(training(front, file_name="words", steps=2), {40: (0, 0), 20: (440, 0)})
    look()
    page.evaluate("progress => app.api.dispatchCustomEvent('lokr.train', progress)", PROGRESS)
    look()
    assert front.run() == "success"
    look()
    page.evaluate("app.graph.getNodeById(40).widgets.find(one => one.name === 'file_name').value = '../away'")
    assert front.run() == "error"
    page.keyboard.press("Escape")
    look()
    assert len(seen) > 100
    options = {text for text in seen if text.startswith(("Stable ", "Flux", "SD", "none"))}
    assert sorted(set(in_english(seen, data | options))) == []


EXTRACT = {"factor": "8", "second_factor": "whole", "rank": 0, "energy": 0.99, "filename_prefix": "loras/extracted"}
SMALL = {"to": "lora", "names": "kohya", "rank": 1, "energy": 0.99, "filename_prefix": "loras/small"}


def test_errors_of_reading_converting_and_extracting_are_told_in_the_language_of_the_page(marked, loras):
    (loras / "pickle.safetensors").write_bytes(b"\x80\x04K\x00.")
    save_file(lora({"lora_unet_mid_block_attentions_0_proj_in": (640, 640)}), str(loras / "plain.safetensors"))
    checkpoint = workflow()["1"]
    errors = {
        "This is a pickle (a .pt, .bin or .ckpt file), whatever its name": ("LoKrInspect", {"lokr_name": "pickle"}),
        "There is no LoKr in this file": ("LoKrInspect", {"lokr_name": "plain"}),
        "The file was not written: it would be unlike the original": ("LoKrConvert", {"lokr_name": "style", **SMALL}),
        "There is no tuned model": ("LoKrExtract", {"base": ["1", 0], **EXTRACT}),
    }
    for said, (kind, inputs) in errors.items():
        if "lokr_name" in inputs:
            inputs = {**inputs, "lokr_name": f"{inputs['lokr_name']}.safetensors"}
        marked.load({"1": checkpoint, "30": {"class_type": kind, "inputs": inputs}}, {1: (0, 0), 30: (400, 60)})
        assert marked.run() == "error"
        assert marked.shows(30, ("error", f"⟦{said}⟧"))
        marked.page.keyboard.press("Escape")
        marked.face(30, "badge").dispatch_event("click")
        lines = marked.dialog("report").locator("pre").inner_text().split("\n")
        marked.page.keyboard.press("Escape")
        assert "⟦" in lines[0] and all(line.startswith("⟦  ") for line in lines[1:]), lines


@pytest.mark.parametrize("language,said", [("zh", "选择文件"), ("ru", "выберите файл"), ("ar", "اختر ملفًا")])
def test_a_language_of_the_page_is_that_of_the_faces(browser, front_server, language, said):
    with opened(browser, front_server.url, language=language) as front:
        assert front.badge(front.add("LoKrLoader"))[1] == said
        front.search((700, 650), "lokr", loaders_title(language))
        front.page.keyboard.press("Enter")
        front.page.wait_for_function("app.graph.nodes.length === 2")
        assert front.page.evaluate("app.graph.nodes.map(node => node.type)") == ["LoKrLoader"] * 2


def loaders_title(language: str) -> str:
    texts = json.loads((PROJECT / f"locales/{language}/nodeDefs.json").read_text(encoding="utf-8"))
    return texts["LoKrLoader"]["display_name"]
