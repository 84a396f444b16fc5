"""The Strength Grid and its picture on the page; colours of our connections; titles and pictures of the templates."""

from __future__ import annotations

from PIL import Image

from tests.comfyui.test_tools import grid
from tests.hosts import PROJECT


def test_the_grid_has_one_report_and_its_files_and_its_picture_is_whole(front):
    prompt = grid(clip=["1", 1], x_strengths="0, 1", y_lokr="other.safetensors", y_strengths="0.7")
    front.load(prompt, {20: (0, 0), 30: (400, 0)})
    assert front.run() == "success"
    assert front.shows(20, ("ok", "8/8 applied · 2 files · live"))
    widgets = front.page.evaluate("app.graph.getNodeById(20).widgets.map(widget => widget.name)")
    assert "$$node-text-preview" not in widgets
    front.face(20, "choose").dispatch_event("click")
    front.dialog("files").wait_for()
    front.page.keyboard.press("Escape")
    front.face(20, "info").dispatch_event("click")
    front.dialog("info").wait_for()
    front.page.keyboard.press("Escape")
    width, height = front.page.evaluate("[...app.graph.getNodeById(30).size]")
    assert width >= 320 and height >= 300


def test_our_connections_have_colours_that_a_palette_does_not_take(front):
    colours = """() => ['LOKR_BLOCKS', 'LOKR_SCHEDULE', 'LOKR_GRID'].map(type => [
        app.canvas.default_connection_color_byType[type], app.canvas.constructor.link_type_colors[type],
        getComputedStyle(document.documentElement).getPropertyValue('--color-datatype-' + type)])"""
    before = front.page.evaluate(colours)
    assert len({colour for row in before for colour in row}) == 3
    front.setting("Comfy.ColorPalette", "light")
    front.page.wait_for_function("!document.body.classList.contains('dark-theme')")
    front.still()
    try:
        assert front.page.evaluate(colours) == before
    finally:
        front.setting("Comfy.ColorPalette", "dark")
        front.page.wait_for_function("document.body.classList.contains('dark-theme')")


def test_templates_have_titles_that_a_person_reads_and_square_pictures(front_server):
    (titles,) = (names for pack, names in front_server.get("/workflow_templates").items() if "lokr" in pack.lower())
    assert len(titles) >= 10
    for title in titles:
        assert "_" not in title and title.startswith("LoKr - ")
        with Image.open(PROJECT / "example_workflows" / f"{title}.jpg") as picture:
            assert picture.size[0] == picture.size[1]
