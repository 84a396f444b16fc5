"""For keys, screen readers and eyes: Tab reaches a face, everything has a name, colours have contrast."""

from __future__ import annotations

import pytest

from tests.browser.front import opened
from tests.browser.test_journey import PLACES
from tests.browser.test_plain import STACK
from tests.comfyui.test_server import loader, workflow


@pytest.mark.parametrize(
    "kind,first", [("LoKrLoader", "badge"), ("LoKrStack", "handle-1"), ("LoKrBlockStrengths", "edit")]
)
def test_tab_goes_from_a_selected_node_to_its_first_control(front, kind, first):
    node = front.add(kind, (200, 160))
    front.page.mouse.click(*front.title(node))
    front.page.wait_for_function("id => !!app.canvas.selected_nodes[id]", arg=node)
    front.page.keyboard.press("Tab")
    assert front.focused() == first


def test_tab_in_a_field_stays_the_browsers(front):
    node = front.add("LoKrStack", (200, 160))
    front.page.mouse.click(*front.title(node))
    front.page.wait_for_function("id => !!app.canvas.selected_nodes[id]", arg=node)
    for control in ("handle-1", "on-1", "file-1"):  # the node stays selected
        front.page.keyboard.press("Tab")
        assert front.focused() == control


NAMELESS = """() => {
    const found = [];
    const controls = 'button, input, select, textarea, summary, [role=slider], [role=option], [role=switch]';
    for (const root of document.querySelectorAll('.lokr-face-host, dialog.lokr-dialog')) {
        for (const element of root.querySelectorAll(controls)) {
            const labelled = element.closest('label')?.textContent.trim() || element.getAttribute('aria-label');
            const text = element.matches('input, select, textarea') ? '' : element.textContent.trim();
            if (!(labelled || text)) found.push(element.outerHTML.slice(0, 120));
        }
        for (const image of root.querySelectorAll('img')) if (image.alt === null) found.push(image.src);
    }
    return found;
}"""

# Texts whose contrast with what is behind them is under AA's 4.5: (text, contrast).
PALE = """() => {
    const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
    const rgba = color => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const over = ([r, g, b, a], below) => [r, g, b].map((part, at) => part * a + below[at] * (1 - a)).concat(1);
    const behind = element => {
        const layers = [];
        for (let at = element; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
        const ground = rgba(getComputedStyle(document.body).getPropertyValue('--component-node-background')
            || getComputedStyle(document.body).backgroundColor);
        return layers.reverse().reduce((below, layer) => over(layer, below), [...ground.slice(0, 3), 1]);
    };
    const light = ([r, g, b]) => [r, g, b].map(part => part / 255)
        .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
        .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
    const found = [];
    for (const root of document.querySelectorAll('.lokr-face-host, dialog.lokr-dialog')) {
        for (const element of root.querySelectorAll('*')) {
            const own = [...element.childNodes].some(one => one.nodeType === Node.TEXT_NODE && one.textContent.trim());
            if (!own || !element.getClientRects().length) continue;
            if (element.closest(':disabled, .lokr-off, [aria-hidden=true]')) continue;
            if (getComputedStyle(element).clipPath !== 'none' || element.tagName === 'OPTION') continue;
            const ground = behind(element);
            const [one, two] = [light(over(rgba(getComputedStyle(element).color), ground)), light(ground)];
            const contrast = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
            const said = element.textContent.slice(0, 40);
            if (contrast < 4.5) found.push([element.className, said, Number(contrast.toFixed(2))]);
        }
    }
    return found;
}"""


@pytest.mark.every_value("theme", "vue")
@pytest.mark.parametrize("vue", [False, True], ids=["LiteGraph", "Vue nodes"])
@pytest.mark.parametrize("theme", ["dark", "light"])
def test_everything_has_a_name_and_contrast(browser, front_server, theme, vue):
    with opened(browser, front_server.url, vue=vue, theme=theme) as front:
        page = front.page
        front.load(
            workflow({"class_type": "LoKrStack", "inputs": STACK}, loader("partial.safetensors", 0.5)),
            {**PLACES, 20: (0, 0), 21: (0, 380)},
        )
        assert front.run() == "success"

        def look() -> None:
            front.still(8)
            assert page.evaluate(NAMELESS) == []
            assert page.evaluate(PALE) == []

        look()
        for key, kind in (("badge", "report"), ("choose", "files"), ("info", "info")):
            front.face(21, key).dispatch_event("click")
            front.dialog(kind).wait_for()
            look()
            page.keyboard.press("Escape")
            front.dialog(kind).wait_for(state="detached")
