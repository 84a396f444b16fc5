"""The nodes that show what strengths do: one model per strength, and the images made with them as one.

ComfyUI runs every node behind a list once per entry, so any sampler and decoder fits between the two. In live mode the
models share their weights and differ in a number.
"""

from __future__ import annotations

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..lokr_core.display import Grid
from ..lokr_core.errors import LoKrError, LoKrValueError
from ..lokr_core.strengths import parse_strengths
from .adapters import read_adapter
from .apply import apply_adapter
from .files import adapter_names, fingerprint
from .inputs import AUTO, CATEGORY, MODEL, REPORT, chosen, clip_input, expert_input, file_input, valid_file
from .mode import LIVE, MODES, How
from .shown import CACHED_REPORT, Source, shown, tell

__all__ = ["LoKrGridImage", "LoKrStrengthGrid"]

Grids = io.Custom("LOKR_GRID")
NO_SECOND = "none"


def _strengths_input(name: str, default: str, axis: str) -> io.String.Input:
    return io.String.Input(
        name, default=default, tooltip=f"Strengths {axis}: 0, 0.5, 1 or 0:1:0.25 (from, to, step), or both."
    )


class LoKrStrengthGrid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoKrStrengthGrid",
            display_name="LoKr Strength Grid",
            category=CATEGORY,
            description="A model for each strength of an adapter, or of two against each other, for one picture.",
            search_aliases=["lokr", "xy plot", "strength sweep", "compare strengths", "lora grid"],
            inputs=[
                MODEL,
                file_input("x_lokr"),
                _strengths_input("x_strengths", "0, 0.5, 1", "from left to right"),
                io.Combo.Input(
                    "y_lokr",
                    options=[NO_SECOND, *adapter_names()],
                    default=NO_SECOND,
                    tooltip="A second adapter, whose strengths go from top to bottom.",
                ),
                _strengths_input("y_strengths", "0, 0.5, 1", "from top to bottom"),
                clip_input(),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default=LIVE,
                    optional=True,
                    advanced=True,
                    tooltip="live: all models share their weights, and another cell costs no merge. merge: each cell's "
                    "adapter is merged into the weights anew.",
                ),
                expert_input(),
            ],
            outputs=[
                io.Model.Output("models", is_output_list=True, tooltip="One for each cell; connect it to a sampler."),
                io.Clip.Output("clips", is_output_list=True, tooltip="One for each cell."),
                Grids.Output("grid", tooltip="For LoKr Grid Picture."),
                REPORT,
            ],
            hidden=[io.Hidden.unique_id],
            **CACHED_REPORT,
        )

    @classmethod
    def validate_inputs(cls, x_lokr, x_strengths, y_lokr, y_strengths) -> bool | str:
        valid = valid_file(x_lokr)
        if valid is True and y_lokr not in (None, NO_SECOND):
            valid = valid_file(y_lokr)
        if valid is not True:
            return valid
        try:
            xs = parse_strengths(x_strengths) if x_strengths is not None else ()
            ys = parse_strengths(y_strengths) if y_strengths is not None and y_lokr != NO_SECOND else ()
            Grid.of("", xs, "", ys)
        except LoKrError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, x_lokr, y_lokr, **_: object) -> tuple:
        return fingerprint(x_lokr), "" if y_lokr == NO_SECOND else fingerprint(y_lokr)

    @classmethod
    def execute(
        cls, model, x_lokr, x_strengths, y_lokr=NO_SECOND, y_strengths="", clip=None, mode=LIVE, expert=AUTO
    ) -> io.NodeOutput:
        xs = parse_strengths(x_strengths)
        ys = () if y_lokr == NO_SECOND else parse_strengths(y_strengths)
        grid = Grid.of(_name(x_lokr), xs, _name(y_lokr), ys)
        how, models, clips, reports, sources = How(mode), [], [], {}, {}
        for y in ys or (0.0,):
            for x in xs:
                cell, cell_clip = model, clip
                for file, strength in ((x_lokr, x), (y_lokr, y if ys else 0.0)):
                    if strength:
                        cell, cell_clip, report = apply_adapter(
                            cell, cell_clip, read_adapter(file, chosen(expert)), strength, strength, how
                        )
                        reports.setdefault(file, report)
                        sources.setdefault(file, Source(file, file))
                models.append(cell)
                clips.append(cell_clip)
        told = list(reports.values()), list(sources.values())
        text = tell(cls, *told) or "every strength is 0"
        return io.NodeOutput(models, clips, grid, text, ui=shown(*told))


def _name(file: str) -> str:
    return file.replace("\\", "/").rpartition("/")[2].removesuffix(".safetensors")


class LoKrGridImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoKrGridImage",
            display_name="LoKr Grid Picture",
            category=CATEGORY,
            description="The pictures made with LoKr Strength Grid's models as one picture, with their strengths.",
            search_aliases=["lokr", "xy plot", "image grid", "contact sheet"],
            inputs=[
                io.Image.Input("images", tooltip="The pictures, in the order in which they were made."),
                Grids.Input("grid", tooltip="From LoKr Strength Grid."),
            ],
            outputs=[io.Image.Output("image")],
            is_input_list=True,
        )

    @classmethod
    def execute(cls, images: list[torch.Tensor], grid: list[Grid]) -> io.NodeOutput:
        pictures = [np.clip(255.0 * batch[0].cpu().numpy(), 0, 255).round().astype(np.uint8) for batch in images]
        other = [picture.shape for picture in pictures if picture.shape[-1] != 3]
        if other:
            raise LoKrValueError("Expected RGB images", expected="(height, width, 3)", found=other[0])
        image = torch.from_numpy(grid[0].assemble(pictures).astype(np.float32) / 255.0)[None]
        return io.NodeOutput(image, ui=ui.PreviewImage(image))
