"""What the user has set: further model folders, how an adapter is called in a prompt, live or merge.

The door calls ``register()`` while scripts load (A1111 reads ``options_templates`` right after that).
"""

from __future__ import annotations

from modules import shared

from lokr_core.strengths import SLIDER_LIMIT

_SECTION = ("lokr", "LoKr", "sd")  # "sd": among the settings of Stable Diffusion
_MODES = ("live", "merge")

MODE_FIELD = "LoKr mode"  # of a picture's parameters: the host itself reads it back as an override of the setting


def register() -> None:
    """Put the settings on their page."""
    import gradio as gr

    option = shared.OptionInfo
    options = {
        "lokr_mode": option(_MODES[0], "Apply LoKr", gr.Radio, {"choices": list(_MODES)}, infotext=MODE_FIELD).info(
            "live: a changed strength costs nothing; merge: weights are changed, steps are as fast as without; "
            "a tag's own mode= comes first"
        ),
        "lokr_folders": option("", "Further folders with LoKr files", gr.Textbox, {"lines": 2})
        .info("one a line, besides models/LoKr, models/Lora and models/LyCORIS")
        .needs_reload_ui(),
        "lokr_infotext": option(True, "Write hashes of LoKr files into the picture's parameters"),
        "lokr_panel_range": option(
            SLIDER_LIMIT,
            "Largest strength on the panel's sliders",
            gr.Slider,
            {"minimum": 1.0, "maximum": 10.0, "step": 0.5},
        ).info("typed numbers are not limited"),
        "lokr_card_width": option(0, "Width of the tab's cards in pixels", gr.Number, {"precision": 0}).info(
            "0: as in the other tabs; seen once the tab is refreshed"
        ),
        "lokr_card_height": option(0, "Height of the tab's cards in pixels", gr.Number, {"precision": 0}).info(
            "0: as in the other tabs; seen once the tab is refreshed"
        ),
    }
    shared.options_templates.update(shared.options_section(_SECTION, options))


def further_folders() -> list[str]:
    """The user's own folders with adapters, as written."""
    return [line.strip() for line in str(_option("lokr_folders", "")).splitlines() if line.strip()]


def prefers_filename() -> bool:
    """Whether prompts call an adapter by its file's name. The setting is the built-in Lora's, for both."""
    return _option("lora_preferred_name", "") == "Filename"


def default_mode() -> str:
    """ "live" or "merge", for tags without a mode."""
    mode = _option("lokr_mode", _MODES[0])
    return mode if mode in _MODES else _MODES[0]


def card_size() -> tuple[int, int]:
    """Width and height of a card in pixels; 0 keeps the host's own size."""
    return tuple(max(0, int(_option(name, 0) or 0)) for name in ("lokr_card_width", "lokr_card_height"))


def writes_hashes() -> bool:
    """Whether pictures' parameters name the files they were made with."""
    return bool(_option("lokr_infotext", True))


def _option(name: str, default):
    """A setting; ``default`` if the host does not have it, as for an option of an extension that is disabled."""
    return getattr(shared.opts, name, default)
