"""The tab, the panel and the settings: a real browser at a real A1111 and at a real Forge."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from tests.hosts import WebServer
from tests.webui.adapters import lokr, save
from tests.webui.conftest import apart

PROMPT = "#txt2img_prompt textarea"
ROW = "#txt2img_lokr_panel .lokr-row"


@pytest.fixture
def page(browser, stocked: WebServer) -> Iterator:
    page = browser.new_page(viewport={"width": 1400, "height": 1100})
    page.set_default_timeout(60_000)
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(error.stack))
    # The host asks for fonts elsewhere; nothing here may depend on another machine.
    page.route("**/*", lambda route: route.continue_() if stocked.url in route.request.url else route.abort())
    page.goto(stocked.url, wait_until="domcontentloaded")
    ready(page)
    yield page
    page.close()
    assert not [failure for failure in failures if "lokr.js" in failure]


def ready(page) -> None:
    page.wait_for_selector('#txt2img_lokr_cards .card[data-name="ink"]', state="attached")
    page.wait_for_selector("#txt2img_lokr_accordion.lokr-idle", state="attached")


def open_tab(page) -> None:
    page.locator("#txt2img_extra_tabs > .tab-nav button", has_text="LoKr").click()
    page.wait_for_selector("#txt2img_lokr_cards .card")


def test_cards_of_the_lokr_files_and_no_others(page):
    open_tab(page)
    cards = page.locator("#txt2img_lokr_cards .card")
    names = cards.evaluate_all("cards => cards.map(card => card.dataset.name)")
    assert set(names) == {"ink", "night [v2] (final)", "été 水彩", "broken"}
    broken = page.locator('#txt2img_lokr_cards .card[data-name="broken"]')
    assert "cannot be read" in broken.inner_text() and "truncated" in broken.inner_text()
    assert broken.evaluate("card => getComputedStyle(card).outlineStyle") == "solid"
    picture = page.locator('#txt2img_lokr_cards .card[data-name="ink"] img.preview')
    page.wait_for_function("image => image.naturalWidth === 64", arg=picture.element_handle())
    assert "Pen and ink" in page.locator('#txt2img_lokr_cards .card[data-name="ink"]').inner_text()


@pytest.mark.parametrize("sought", ["night", "styles", "ink drawing", "stable diffusion 1"])
def test_search_finds_names_folders_trigger_words_and_base_models(page, sought: str):
    open_tab(page)
    page.fill("#txt2img_lokr_extra_search", sought)
    page.wait_for_timeout(300)
    shown = page.locator("#txt2img_lokr_cards .card:not(.hidden)").evaluate_all(
        "cards => cards.map(c => c.dataset.name)"
    )
    expected = {"night": {"night [v2] (final)"}, "styles": {"night [v2] (final)"}, "ink drawing": {"ink"}}
    assert set(shown) == expected.get(sought, {"ink", "night [v2] (final)", "été 水彩"})


def test_cards_are_as_large_as_the_settings_say(page, stocked: WebServer):
    stocked.post("/sdapi/v1/options", {"lokr_card_width": 120, "lokr_card_height": 150})
    open_tab(page)
    card = page.locator('#txt2img_lokr_cards .card[data-name="ink"]')
    before = card.element_handle()
    page.click("#txt2img_lokr_extra_refresh")
    page.wait_for_function("card => !card.isConnected", arg=before)
    stocked.post("/sdapi/v1/options", {"lokr_card_width": 0, "lokr_card_height": 0})
    box = card.bounding_box()
    assert (round(box["width"]), round(box["height"])) == (120, 150)


def test_a_click_inserts_the_tag_at_the_users_strength_and_another_takes_it_out(page):
    open_tab(page)
    page.fill(PROMPT, "a lighthouse")
    page.click('#txt2img_lokr_cards .card[data-name="ink"]')
    assert page.input_value(PROMPT) == "a lighthouse <lokr:ink_drawing:0.7> ink drawing"
    page.click('#txt2img_lokr_cards .card[data-name="été 水彩"]')
    assert page.input_value(PROMPT).endswith("ink drawing <lokr:été 水彩:1>")
    page.click('#txt2img_lokr_cards .card[data-name="ink"]')
    assert page.input_value(PROMPT) == "a lighthouse <lokr:été 水彩:1>"


def test_a_click_writes_the_files_own_trigger_words_where_the_user_has_no_notes(page, stocked: WebServer, small_host):
    said = {"modelspec.trigger_phrase": "in oil, thick paint"}
    path = save(lokr(small_host.layers, seed=9), stocked.base / "models/LoKr/oil.safetensors", **said)
    open_tab(page)
    page.click("#txt2img_lokr_extra_refresh")
    page.fill(PROMPT, "a lighthouse")
    page.click('#txt2img_lokr_cards .card[data-name="oil"]')
    path.unlink()
    assert page.input_value(PROMPT) == "a lighthouse <lokr:oil:1> in oil, thick paint"


def test_a_click_on_a_broken_file_tells_why_and_writes_nothing(page):
    open_tab(page)
    page.fill(PROMPT, "a lighthouse")
    page.click('#txt2img_lokr_cards .card[data-name="broken"]')
    report = page.locator("#txt2img_lokr_edit_user_metadata .lokr-error")
    report.wait_for()
    assert "truncated" in report.inner_text()
    assert page.input_value(PROMPT) == "a lighthouse"


def test_a_slider_per_tag_that_edits_the_prompt_from_the_keyboard_too(page):
    page.fill(PROMPT, "a <lokr:ink:0.7>, b <lokr:night [v2] (final):1:0.5:mode=merge>")
    page.wait_for_function(f"() => document.querySelectorAll('{ROW}').length === 2")
    sliders = page.locator(f"{ROW} input[type=range]")
    assert sliders.evaluate_all("s => s.map(x => [x.ariaLabel, x.valueAsNumber])") == [
        ["Strength of ink", 0.7],
        ["Text encoder of night [v2] (final)", 1],
        ["UNet of night [v2] (final)", 0.5],
    ]
    sliders.nth(0).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    sliders.nth(2).focus()
    page.keyboard.press("ArrowLeft")
    assert page.input_value(PROMPT) == "a <lokr:ink:0.8>, b <lokr:night [v2] (final):1:0.45:mode=merge>"
    page.locator(f"{ROW} input[type=number]").nth(0).fill("-3.25")
    assert page.input_value(PROMPT).startswith("a <lokr:ink:-3.25>, b")


def test_the_panel_says_what_matches_and_names_near_ones(page, headline: str):
    page.fill(PROMPT, "<lokr:ink> <lokr:inc>")
    status = page.locator(f"{ROW} .lokr-status")
    page.wait_for_function(f"() => [...document.querySelectorAll('{ROW} .lokr-status')].every(s => s.textContent)")
    assert status.all_inner_texts() == [
        headline,
        "There is no LoKr of this name: 'inc'; near: ink",
    ]


def test_the_panel_goes_when_the_last_tag_does(page):
    page.fill(PROMPT, "a <lokr:ink:0.7> b")
    page.locator(f"{ROW} button", has_text="✕").click()
    assert page.input_value(PROMPT) == "a b"
    assert not page.locator("#txt2img_lokr_accordion").is_visible()


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_a_right_click_shows_what_the_pencil_does(page, headline: str, tab: str):
    page.locator("#tabs > .tab-nav button", has_text=tab).click()
    page.locator(f"#{tab}_extra_tabs > .tab-nav button", has_text="LoKr").click()
    page.click(f'#{tab}_lokr_cards .card[data-name="ink"]', button="right")
    report = page.locator(f"#{tab}_lokr_edit_user_metadata .lokr-report summary")
    report.wait_for()
    assert report.inner_text() == f"With the loaded model: {headline}"
    assert page.input_value(f"#{tab}_prompt textarea") == ""


def test_the_pencil_shows_what_the_file_is_and_does_and_saves_the_users_notes(page, stocked: WebServer, headline: str):
    open_tab(page)
    card = page.locator('#txt2img_lokr_cards .card[data-name="night [v2] (final)"]')
    card.hover()
    card.locator(".edit-button").click()
    editor = page.locator("#txt2img_lokr_edit_user_metadata")
    editor.locator(".lokr-report summary").wait_for()
    text = editor.inner_text()
    assert "Stable Diffusion 1.x" in text and f"LoKr, {headline.split()[0]} modules" in text
    assert editor.locator(".lokr-report summary").inner_text() == f"With the loaded model: {headline}"
    editor.get_by_label("Activation text").fill("at night")
    editor.locator("input[type=number]").fill("0.4")
    editor.get_by_role("button", name="Save").click()
    page.wait_for_selector(".global-popup", state="hidden")
    page.wait_for_timeout(1000)
    notes = json.loads((stocked.base / "models/Lora/styles/night [v2] (final).json").read_text())
    assert notes["preferred weight"] == 0.4 and notes["activation text"] == "at night"
    page.fill(PROMPT, "")
    card.click()
    assert page.input_value(PROMPT).strip() == "<lokr:night [v2] (final):0.4> at night"


def test_the_settings_page(page, stocked: WebServer):
    page.locator("#tabs > .tab-nav button", has_text="Settings").click()
    page.locator("#settings > .tab-nav button", has_text="LoKr").click()
    page.locator("#setting_lokr_mode").get_by_label("merge").check()
    page.click("#settings_submit")
    page.wait_for_function("() => document.querySelector('#settings_result').textContent.includes('lokr_mode')")
    # Not by the API, whose list in Forge lacks what extensions add.
    kept = json.loads((stocked.base / "config.json").read_text())
    assert kept["lokr_mode"] == "merge"
    stocked.post("/sdapi/v1/options", {"lokr_mode": "live"})


def test_generate_and_paste_back(page):
    """A picture's parameters, pasted into an empty page, give the same prompt, and the same picture."""
    for control in ("width", "height"):
        page.fill(f"#txt2img_{control} input[type=number]", "64")
    page.fill("#txt2img_steps input[type=number]", "2")
    page.fill("#txt2img_seed input", "7")

    def generate() -> tuple[str, np.ndarray]:
        """The parameters below the picture, and the picture."""
        shown = page.locator("#txt2img_gallery img").first
        before = shown.evaluate("image => image.src") if shown.count() else None
        page.click("#txt2img_generate")
        page.wait_for_function(
            "before => ![null, undefined, before].includes(document.querySelector('#txt2img_gallery img')?.src)"
            " && document.querySelector('#html_info_txt2img').innerText.includes('Steps: 2')",
            arg=before,
            timeout=120_000,
        )
        png = Image.open(io.BytesIO(page.request.get(shown.get_attribute("src")).body()))
        # Forge packs the parameters and the time into a channel for transparency.
        return page.locator("#html_info_txt2img").first.inner_text(), np.asarray(png.convert("RGB")).astype(int)

    page.fill(PROMPT, "a lighthouse")
    _, without = generate()
    prompt = "a lighthouse <lokr:ink_drawing:0.8>, <lokr:été 水彩:0.5:0.25>"
    page.fill(PROMPT, prompt)
    text, picture = generate()
    assert apart(picture, without) > 20
    assert text.startswith(prompt) and "LoKr hashes: " in text and "LoKr mode: live" in text
    page.reload(wait_until="domcontentloaded")
    ready(page)
    page.fill(PROMPT, text)
    page.click("#paste")
    page.wait_for_function(f"text => document.querySelector('{PROMPT}').value === text", arg=prompt)
    page.wait_for_function(f"() => document.querySelectorAll('{ROW}').length === 2")
    again, same = generate()
    assert again == text and apart(same, picture) == 0
