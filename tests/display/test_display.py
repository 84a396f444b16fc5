"""Text in pictures, whatever fonts and Pillow there are, and the progress bar."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from lokr_core.display import Grid, _text, draw_text, progress_bar, text_width
from lokr_core.inspection import draw_heat_map
from lokr_core.inspection._energy import Energy, HeatMap, Place

TEXTS = ("0.25", "jÅg", "ΔW/W", "夜景", "style 夜景 Δ", "a\nb", "")


@pytest.fixture(params=["the system's fonts", "Pillow's font", "the bitmap of Pillow before 10.1"])
def fonts(request, monkeypatch):
    """Each kind of font that a host may have."""
    _text._drawable.cache_clear()
    _text._fonts.cache_clear()
    if request.param != "the system's fonts":
        monkeypatch.setattr(_text, "_TYPEFACES", ())
    if "bitmap" in request.param:
        bitmap = getattr(ImageFont, "load_default_imagefont", ImageFont.load_default)()
        monkeypatch.setattr(_text, "_fonts", lambda size: [bitmap])
    yield request.param
    monkeypatch.undo()
    _text._drawable.cache_clear()
    _text._fonts.cache_clear()


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("align", [0, 0.5, 1])
def test_text_keeps_within_its_width(fonts, text, align):
    image = Image.new("RGB", (400, 40))
    draw_text(ImageDraw.Draw(image), text, (200, 20), 18, (255, 255, 255), align)
    rows, columns = np.nonzero(np.array(image).any(2))
    assert bool(rows.size) == bool(text), "the text is seen"
    if text:
        width = text_width(text, 18)
        left = 200 - width * align
        assert left - 1 <= columns.min() and columns.max() <= left + width + 1
        assert rows.min() > 0 and rows.max() < 39


def test_a_letter_without_a_font_is_written_as_its_escape(fonts):
    written, font = _text._drawable("夜景", 18)
    assert written == ("夜景" if _text._has(font, "夜") else "\\u591c\\u666f")
    assert _text._drawable("夜", 18) != _text._drawable("景", 18)


def test_a_font_that_has_all_letters_comes_first(monkeypatch):
    monkeypatch.setattr(_text, "_fonts", lambda size: ["latin", "some", "all", "more"])
    letters = {"latin": "a", "some": "a夜", "all": "a夜景", "more": "a夜景Δ"}
    monkeypatch.setattr(_text, "_has", lambda font, letter: letter in letters[font])
    _text._drawable.cache_clear()
    assert _text._drawable("a夜景", 1) == ("a夜景", "all")
    assert _text._drawable("aa", 1) == ("aa", "latin")
    assert _text._drawable("夜景?", 1)[1] == "all"
    _text._drawable.cache_clear()


def test_pictures_with_such_labels(fonts):
    pictures = [np.full((40, 60, 3), 90, np.uint8)] * 2
    other = Grid.of("a", (0, 1)).assemble(pictures)
    image = Grid.of("夜景 Δ", (0, 1)).assemble(pictures)
    assert image.dtype == np.uint8 and image.shape[1] >= other.shape[1]
    heat = HeatMap.of([Energy(Place("IN", "IN0", "attention"), 1.0)])
    named, plain = draw_heat_map(heat, "夜景 Δ"), draw_heat_map(heat)
    assert named.shape[0] == plain.shape[0] and (named[:30, :100] > 200).any()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_comes_after_a_second_and_on_a_terminal_only(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("tqdm.std.tqdm._time", lambda self: now[0], raising=False)
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    for stream in (Terminal(), io.StringIO()):
        now[0] = 0.0
        with progress_bar("merging", stream=stream) as progress:
            progress(1, 100)
            now[0] = 0.9
            progress(2, 100)
            assert stream.getvalue().strip() == ""
            now[0] = 1.5
            progress(50_000_000, 100_000_000)
            assert ("merging:  50%" in stream.getvalue()) == stream.isatty()
            assert ("50.0M/100M" in stream.getvalue()) == stream.isatty()
        assert stream.getvalue().rpartition("\r")[0].rpartition("\r")[2].strip() == "", "it is wiped"
        assert bool(stream.getvalue()) == stream.isatty()


def test_an_exception_passes_through_the_bar():
    with pytest.raises(KeyboardInterrupt), progress_bar("merging", stream=Terminal()):
        raise KeyboardInterrupt
