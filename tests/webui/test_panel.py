"""The panel's script alone in a browser, beside a text box: what a control shows and writes is what the tag means."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.hosts import PROJECT
from webui.tags import request_of

HOST = """
<div id="txt2img_prompt"><textarea></textarea></div>
<div id="txt2img_lokr_accordion"><div id="txt2img_lokr_panel" data-key="of this page"></div></div>
<script>
    const opts = {lokr_panel_range: 2, sd_model_checkpoint: "one"};
    const asked = [];
    let loaded = true;
    const keys = [];
    let refuses = false;
    window.fetch = async (url, {headers}) => {
        asked.push(url);
        keys.push(headers["X-LoKr-Page"]);
        if (refuses) {
            return {ok: false, status: 401, json: async () => ({detail: {error: "Not logged in"}})};
        }
        if (!loaded) {
            return {ok: false, status: 503, json: async () => ({detail: {error: "No model is loaded yet"}})};
        }
        return {ok: true, json: async () => ({headline: "10 of 10 modules applied", refused: 0})};
    };
    const gradioApp = () => document, onUiLoaded = (run) => run(), onOptionsAvailable = (run) => run();
    const updateInput = (box) => box.dispatchEvent(new Event("input", {bubbles: true}));
</script>
"""
TAGS = [
    "x",
    "x:0.5",
    "x:-1.5",
    "x:0.5:0.25",
    "x:te=0.5",
    "x:unet=0.5",
    "x:0.8:te=0.5",
    "x:0.8:0.4:unet=0.1",
    "x:start=0.2:0.5",
    "x:start=0.2:0.5:mode=live:0.75",
    "x:te=1:unet=0.5:blocks=IN=0.5,MID=1",
    "my style [v2] (final):1",
]


@pytest.fixture(scope="module")
def blank(browser) -> Iterator:
    page = browser.new_page()
    page.set_content(HOST)
    page.add_style_tag(path=PROJECT / "style.css")
    page.add_script_tag(path=PROJECT / "javascript" / "lokr.js")
    yield page
    page.close()


@pytest.fixture
def page(blank):
    blank.fill("textarea", "")
    return blank


def strengths(prompt: str) -> list[tuple[float, float]]:
    """What the extra network takes from the tags of a prompt: (text encoder, UNet) of each."""
    requests = (request_of(tag.split(":")) for tag in re.findall("<lokr:([^>]+)>", prompt))
    return [(request.tag.te, request.tag.unet) for request in requests]


def shown(page) -> dict[str, float]:
    """Label of each slider -> its value."""
    rows = page.locator("input[type=range]").evaluate_all("s => s.map(x => [x.ariaLabel.split(' of ')[0], x.value])")
    return {label: float(value) for label, value in rows}


@pytest.mark.parametrize("tag", TAGS)
def test_controls_show_what_the_tag_means(page, tag: str):
    page.fill("textarea", f"a <lokr:{tag}>, b")
    ((te, unet),) = strengths(page.input_value("textarea"))
    both = {"Strength": te} if "Strength" in shown(page) else {"Text encoder": te, "UNet": unet}
    assert shown(page) == pytest.approx(both)
    assert te == unet or "UNet" in shown(page)


@pytest.mark.parametrize("tag", TAGS)
def test_a_control_changes_its_strength_and_nothing_else(page, tag: str):
    for label in ("Strength", "Text encoder", "UNet"):
        page.fill("textarea", f"a <lokr:{tag}>, b")
        ((te, unet),) = strengths(page.input_value("textarea"))
        control = page.get_by_label(f"{label} of").and_(page.locator("input[type=number]"))
        if not control.count():
            continue
        control.fill("0.35")
        written = page.input_value("textarea")
        expected = (te if label == "UNet" else 0.35, unet if label == "Text encoder" else 0.35)
        assert strengths(written) == [expected]
        assert written.startswith("a <lokr:") and written.endswith(">, b")
        assert [piece for piece in tag.split(":")[1:] if re.match("start|end|mode|blocks", piece)] == [
            piece for piece in written[8:-4].split(":")[1:] if re.match("start|end|mode|blocks", piece)
        ]


@pytest.mark.parametrize("tag", TAGS)
def test_one_strength_becomes_two_of_the_same_and_two_become_the_unets(page, tag: str):
    page.fill("textarea", f"<lokr:{tag}>")
    ((te, unet),) = strengths(page.input_value("textarea"))
    apart = "UNet" in shown(page)
    page.get_by_role("button", name="TE | UNet").click()
    assert strengths(page.input_value("textarea")) == [(unet, unet)]
    assert ("UNet" in shown(page)) is not apart
    assert page.evaluate("document.activeElement.textContent") == "TE | UNet"


def test_a_row_for_each_tag_also_of_the_same_name(page):
    page.fill("textarea", "<lokr:x:0.5> <lora:x:0.1> <lokr:x:0.75> <LoKr:y>")
    page.locator("input[type=number]").nth(1).fill("1")
    assert page.input_value("textarea") == "<lokr:x:0.5> <lora:x:0.1> <lokr:x:1> <LoKr:y>"
    page.get_by_role("button", name="✕").first.click()
    assert page.input_value("textarea") == " <lora:x:0.1> <lokr:x:1> <LoKr:y>"


def test_what_changes_the_prompt_without_an_event_is_followed(page):
    page.evaluate("document.querySelector('textarea').value = 'a <lokr:x:0.9>'")
    page.wait_for_function("() => document.querySelector('input[type=range]')?.value === '0.9'")


def test_a_strength_that_is_no_number_is_marked_and_can_be_mended(page):
    page.fill("textarea", "<lokr:x:o.5>")
    assert page.locator("input[type=number].lokr-wrong").count() == 1
    page.locator("input[type=number]").fill("0.5")
    assert page.input_value("textarea") == "<lokr:x:0.5>"
    assert page.locator("input[type=number].lokr-wrong").count() == 0


def test_a_number_can_be_typed_digit_by_digit(page):
    page.fill("textarea", "<lokr:x:1>")
    number = page.locator("input[type=number]")
    number.focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("-0.05")
    assert number.input_value() == "-0.05" and page.input_value("textarea") == "<lokr:x:-0.05>"


def test_the_report_is_asked_for_once_a_name_stands_and_again_for_another_model(page):
    page.evaluate("asked.length = 0")
    page.locator("textarea").focus()
    page.keyboard.type("<lokr:style &>")
    page.wait_for_function("() => document.querySelector('.lokr-status')?.textContent === '10 of 10 modules applied'")
    assert page.evaluate("asked") == ["./lokr/v1/report?name=style%20%26"]
    page.evaluate("opts.sd_model_checkpoint = 'another'")
    page.wait_for_function("() => asked.length === 2")


def test_the_report_follows_once_a_model_is_loaded(page):
    status = "document.querySelector('.lokr-status')?.textContent"
    page.evaluate("loaded = false")
    page.fill("textarea", "<lokr:early>")
    page.wait_for_function(f"() => {status} === 'No model is loaded yet'")
    assert not page.locator(".lokr-status.lokr-wrong").count()
    page.evaluate("loaded = true")
    page.wait_for_function(f"() => {status} === '10 of 10 modules applied'")


def test_the_panel_sends_the_pages_key_and_tells_that_the_login_has_ended(page):
    page.evaluate("keys.length = 0, refuses = true")
    page.fill("textarea", "<lokr:locked>")
    page.wait_for_function("() => document.querySelector('.lokr-status')?.textContent === 'Not logged in'")
    page.evaluate("refuses = false")
    assert page.evaluate("keys") == ["of this page"]
    assert page.locator(".lokr-status.lokr-wrong").count() == 1
