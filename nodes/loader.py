"""The loader nodes."""

from __future__ import annotations

import logging

from comfy_api.latest import io
from server import PromptServer

from ..lokr_core import LoKrError, Report
from .bridge import apply_adapter
from .files import adapter_names, adapter_path, fingerprint, read_adapter

__all__ = ["LoKrLoader", "LoKrLoaderModelOnly"]

CATEGORY = "loaders/lokr"
ALIASES = ["lokr", "lycoris", "kronecker", "load lokr", "lora loader", "lora"]
LOG = logging.getLogger("lokr")


def _strength(name: str, of: str) -> io.Float.Input:
    return io.Float.Input(
        name,
        default=1.0,
        min=-2.0,
        max=2.0,
        step=0.01,
        display_mode=io.NumberDisplay.slider,
        tooltip=f"How strongly the adapter acts on the {of}: 0 not at all, 1 as trained. "
        "The slider goes from -2 to 2; any number that comes in by a connection is taken.",
    )


FILE = "lokr_name"
MODEL = io.Model.Input("model", tooltip="The diffusion model that the adapter is for.")
REPORT = io.String.Output("report", display_name="report", tooltip="What matched, what did not, and why.")


def _file() -> io.Combo.Input:
    return io.Combo.Input(FILE, options=adapter_names(), tooltip="A .safetensors file in models/loras or models/lokr.")


def _tell(node: type[io.ComfyNode], report: Report) -> None:
    """The report in the log and on the node; a node that is called from code has no place of its own in a graph."""
    LOG.log(logging.INFO if report.complete else logging.WARNING, report.text())
    if node.hidden is not None and node.hidden.unique_id is not None:
        text = report.headline if report.complete else report.text(lines=6)
        PromptServer.instance.send_progress_text(text, node.hidden.unique_id)


def _valid_file(name: str) -> bool | str:
    try:
        adapter_path(name)
    except LoKrError as error:
        return str(error)
    return True


class LoKrLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoKrLoader",
            display_name="LoKr Loader",
            category=CATEGORY,
            description="Loads a LoKr (LyCORIS) adapter of any trainer into a model and, where it is connected, a clip.",
            search_aliases=ALIASES,
            inputs=[
                MODEL,
                _file(),
                _strength("strength_model", "diffusion model"),
                _strength("strength_clip", "text encoder"),
                io.Clip.Input("clip", optional=True, tooltip="The text encoder, if the adapter was trained on it too."),
            ],
            outputs=[io.Model.Output("model"), io.Clip.Output("clip"), REPORT],
            hidden=[io.Hidden.unique_id],
        )

    # Naming the strengths here is what makes ComfyUI take numbers beyond the slider's ends.
    @classmethod
    def validate_inputs(cls, lokr_name: str, strength_model: float, strength_clip: float) -> bool | str:
        return _valid_file(lokr_name)

    @classmethod
    def fingerprint_inputs(cls, lokr_name: str, **_: object) -> tuple:
        return fingerprint(lokr_name)

    @classmethod
    def execute(cls, model, lokr_name: str, strength_model: float, strength_clip: float, clip=None) -> io.NodeOutput:
        model, clip, report = apply_adapter(model, clip, read_adapter(lokr_name), strength_model, strength_clip)
        _tell(cls, report)
        return io.NodeOutput(model, clip, report.text())


class LoKrLoaderModelOnly(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoKrLoaderModelOnly",
            display_name="LoKr Loader (Model Only)",
            category=CATEGORY,
            description="Loads a LoKr (LyCORIS) adapter of any trainer into a model.",
            search_aliases=ALIASES,
            inputs=[MODEL, _file(), _strength("strength_model", "diffusion model")],
            outputs=[io.Model.Output("model"), REPORT],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, lokr_name: str, strength_model: float) -> bool | str:
        return _valid_file(lokr_name)

    @classmethod
    def fingerprint_inputs(cls, lokr_name: str, **_: object) -> tuple:
        return fingerprint(lokr_name)

    @classmethod
    def execute(cls, model, lokr_name: str, strength_model: float) -> io.NodeOutput:
        model, _, report = apply_adapter(model, None, read_adapter(lokr_name), strength_model, 0.0)
        _tell(cls, report)
        return io.NodeOutput(model, report.text())
