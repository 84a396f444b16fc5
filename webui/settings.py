"""What the user has set: model folders, how an adapter is called in a prompt, live or merge.

The door calls ``register()`` while scripts load (A1111 reads ``options_templates`` right after that).
"""

from __future__ import annotations

from pathlib import Path

from modules import paths, shared

__all__ = ["MODE_FIELD", "card_size", "default_mode", "folders", "prefers_filename", "register", "writes_hashes"]

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
            2.0, "Largest strength on the panel's sliders", gr.Slider, {"minimum": 1.0, "maximum": 10.0, "step": 0.5}
        ).info("a number that is typed may be any"),
        "lokr_card_width": option(0, "Width of the tab's cards in pixels", gr.Number, {"precision": 0}).info(
            "0: as in the other tabs; seen once the tab is refreshed"
        ),
        "lokr_card_height": option(0, "Height of the tab's cards in pixels", gr.Number, {"precision": 0}).info(
            "0: as in the other tabs; seen once the tab is refreshed"
        ),
    }
    shared.options_templates.update(shared.options_section(_SECTION, options))


def folders() -> list[Path]:
    """The folders with adapters, those for LoKr alone first; absolute, each once, whether there or not."""
    arguments = shared.cmd_opts
    models = Path(paths.models_path)
    extra = [line.strip() for line in str(_option("lokr_folders", "")).splitlines()]
    named = [
        getattr(arguments, "lokr_dir", None) or models / "LoKr",
        *(line for line in extra if line),
        getattr(arguments, "lora_dir", None) or models / "Lora",
        getattr(arguments, "lyco_dir_backcompat", None) or models / "LyCORIS",
    ]
    return list(dict.fromkeys(Path(folder).expanduser().absolute() for folder in named))


def prefers_filename() -> bool:
    """Whether prompts call an adapter by its file's name: the built-in's own setting, that one holds for both."""
    return _option("lora_preferred_name", "") == "Filename"


def default_mode() -> str:
    """ "live" or "merge", for tags that do not say."""
    mode = _option("lokr_mode", _MODES[0])
    return mode if mode in _MODES else _MODES[0]


def card_size() -> tuple[int, int]:
    """Width and height of a card in pixels; 0 where the host's own size is to stay."""
    return tuple(max(0, int(_option(name, 0) or 0)) for name in ("lokr_card_width", "lokr_card_height"))


def writes_hashes() -> bool:
    """Whether pictures are to say which files they were made with."""
    return bool(_option("lokr_infotext", True))


def _option(name: str, default):
    """A setting; ``default`` while the host has none of that name (an option of an extension that is switched off)."""
    return getattr(shared.opts, name, default)
