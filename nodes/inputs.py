"""Inputs and outputs that several nodes have."""

from __future__ import annotations

from comfy_api.latest import io

from ..lokr_core.errors import LoKrError
from ..lokr_core.formats import EXPERTS
from ..lokr_core.strengths import SLIDER_LIMIT
from .files import adapter_names, adapter_path, fingerprint

CATEGORY = "loaders/lokr"
AUTO = "auto"
"""The option by which a node chooses itself."""

Blocks = io.Custom("LOKR_BLOCKS")
Schedules = io.Custom("LOKR_SCHEDULE")

MODEL = io.Model.Input("model", tooltip="The diffusion model that the adapter is for.")
REPORT = io.String.Output("report", display_name="report", tooltip="What matched, what did not, and why.")
BLOCKS = Blocks.Input("blocks", optional=True, tooltip="A strength per block, from a LoKr Block Strengths node.")
SCHEDULE = Schedules.Input("schedule", optional=True, tooltip="Strength over sampling, from a LoKr Schedule node.")


class _SliderEnd(float):
    """An end of a slider, beyond which ComfyUI's validation accepts numbers all the same."""

    def __lt__(self, other: object) -> bool:
        return False

    __gt__ = __lt__


def strength_input(name: str, of: str) -> io.Float.Input:
    return io.Float.Input(
        name,
        default=1.0,
        min=_SliderEnd(-SLIDER_LIMIT),
        max=_SliderEnd(SLIDER_LIMIT),
        step=0.01,
        display_mode=io.NumberDisplay.slider,
        tooltip=f"How strongly the adapter acts on the {of}: 0 not at all, 1 as trained. "
        f"The slider goes from {-SLIDER_LIMIT:g} to {SLIDER_LIMIT:g}; "
        "any number that comes in by a connection is taken.",
    )


def file_input(name: str = "lokr_name") -> io.Combo.Input:
    return io.Combo.Input(name, options=adapter_names(), tooltip="A .safetensors file in models/loras or models/lokr.")


def clip_input() -> io.Clip.Input:
    return io.Clip.Input("clip", optional=True, tooltip="The text encoder, if the adapter was trained on it too.")


EXPERT_TOOLTIP = (
    "For a file with both experts of a model such as Wan 2.2: high for the model of the first steps, low for that of "
    "the last. auto: as the name of the model's file tells."
)


def expert_input() -> io.Combo.Input:
    """The last of a node's inputs, since saved workflows count its widgets."""
    options = [AUTO, *EXPERTS]
    return io.Combo.Input("expert", options=options, default=AUTO, optional=True, advanced=True, tooltip=EXPERT_TOOLTIP)


def chosen(expert: str) -> str:
    """The expert that an input names, "" for auto."""
    return "" if expert == AUTO else expert


def valid_file(name: str | None) -> bool | str:
    """True if the file exists, else what is wrong. None: the name comes by a connection, and is not known yet."""
    if name is None:
        return True
    try:
        adapter_path(name)
    except LoKrError as error:
        return str(error)
    return True


class FileNode(io.ComfyNode):
    """A node of one adapter file, which is checked before a run and makes it anew when it changes."""

    # ComfyUI repeats an error for each input that is named here.
    @classmethod
    def validate_inputs(cls, lokr_name: str) -> bool | str:
        """True if the file exists, else what is wrong."""
        return valid_file(lokr_name)

    @classmethod
    def fingerprint_inputs(cls, lokr_name: str, **_: object) -> str:
        """Changes with the file."""
        return fingerprint(lokr_name)
