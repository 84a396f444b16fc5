"""The node that writes an adapter as another kind of adapter, for another program."""

from __future__ import annotations

from comfy_api.latest import io

from ..lokr_core.matching import Target
from ..lokr_core.tools import INEXACT, TO, Conversion, convert_file
from .files import adapter_path
from .inputs import CATEGORY, FileNode, clip_input, file_input
from .written import (
    DTYPES,
    KEPT,
    REPORT,
    dtype_input,
    energy_input,
    keep_of,
    path_for,
    prefix_input,
    progress_on_node,
    rank_input,
    written,
)

AS_IN_THE_FILE = "as in the file"
NAMES = (AS_IN_THE_FILE, "kohya", "lycoris", "comfyui", "diffusers", "original")


def _advanced() -> list[io.Input]:
    """The inputs that few need."""
    return [
        io.Combo.Input(
            "inexact",
            options=list(INEXACT),
            default=INEXACT[0],
            optional=True,
            advanced=True,
            tooltip="For rows of a fused layer that are no LoKr of the same factors: refuse with the sizes, or "
            "write a LoRA, the nearest LoKr or the full difference.",
        ),
        io.Boolean.Input(
            "lossy",
            default=False,
            optional=True,
            advanced=True,
            tooltip="Write the file even if under 0.9 of the energy is kept.",
        ),
        dtype_input(),
    ]


class LoKrConvert(FileNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoKrConvert",
            display_name="LoKr Convert",
            category=CATEGORY,
            description="Writes an adapter as LoRA, full difference or LoKr, in the names that another program reads.",
            search_aliases=["lokr", "lokr to lora", "convert lora", "export lora", "lycoris to lora"],
            inputs=[
                file_input(),
                io.Combo.Input(
                    "to",
                    options=list(TO),
                    tooltip="lora: the best of its rank. full: exact, as large as the layers. lokr: other names, or "
                    "the nearest LoKr of a LoRA.",
                ),
                io.Combo.Input(
                    "names",
                    options=list(NAMES),
                    default=AS_IN_THE_FILE,
                    tooltip="Whose names and layout the file has.",
                ),
                rank_input("each LoRA"),
                energy_input(),
                prefix_input("loras/converted"),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model that the file is for: it tells names and rows. Without it the file's names do.",
                ),
                clip_input(),
                *_advanced(),
            ],
            outputs=[REPORT, KEPT],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        lokr_name,
        to,
        names,
        rank,
        energy,
        filename_prefix,
        model=None,
        clip=None,
        inexact=INEXACT[0],
        lossy=False,
        dtype=AS_IN_THE_FILE,
    ) -> io.NodeOutput:
        conversion = Conversion(to, None if names == AS_IN_THE_FILE else names, keep_of(rank, energy), inexact=inexact)
        path, progress = path_for(filename_prefix), progress_on_node()
        target = _target(model and model.model, clip and clip.cond_stage_model)
        found = convert_file(
            adapter_path(lokr_name), path, conversion, DTYPES[dtype], target, lossy=lossy, progress=progress
        )
        return written(cls, found, path)


def _target(*modules) -> Target | None:
    """The weights of what is connected; None if nothing is."""
    shapes = {
        name: tuple(weight.shape)
        for module in modules
        if module is not None
        for name, weight in module.named_parameters()
    }
    return Target(shapes) if shapes else None
