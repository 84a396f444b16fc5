"""The panel below the prompt's settings: strengths of the tags in the prompt as sliders.

``LoKrPanel`` stands in the door's namespace, where the host finds scripts. The panel is an empty box: what it shows and
does follows the prompt as it is typed, so it is the page's own (``javascript/lokr.js``) and costs no request.
"""

from __future__ import annotations

import gradio as gr
from modules import scripts

from .login import PAGE_KEY


class LoKrPanel(scripts.Script):
    """Shown on txt2img and img2img while the prompt has a ``<lokr:…>``."""

    def title(self) -> str:
        return "LoKr"

    def show(self, is_img2img: bool):
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list:
        tab = "img2img" if is_img2img else "txt2img"
        with gr.Accordion("LoKr", open=True, elem_id=f"{tab}_lokr_accordion"):
            gr.HTML(f"<div id='{tab}_lokr_panel' class='lokr-panel' data-key='{PAGE_KEY}'></div>")
        return []
