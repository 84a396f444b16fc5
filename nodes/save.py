"""The node that writes what is loaded back to a file."""

from __future__ import annotations

import os

import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io, ui

from ..lokr_core.errors import LoKrValueError
from ..lokr_core.saving import save_adapter
from ..lokr_core.tools import EXACT, OVERLAPS, Term, combine
from .apply import LoKrPatch
from .inputs import CATEGORY
from .loaded import Loaded, loaded_on
from .shown import LOG, write_on

AS_THEY_ARE = "as in the files"
FORMATS = (AS_THEY_ARE, "kohya", "lycoris", "comfyui", "diffusers")
DTYPES = {AS_THEY_ARE: None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class LoKrSave(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoKrSave",
            display_name="LoKr Save",
            category=CATEGORY,
            description="Writes the adapters that LoKr loaders have put on a model and a clip to one LoKr file.",
            search_aliases=["lokr", "merge lora", "combine lora", "save lora", "export lora"],
            inputs=[
                io.Model.Input("model", optional=True, tooltip="A model that LoKr nodes have loaded adapters on."),
                io.Clip.Input("clip", optional=True, tooltip="The same for a text encoder."),
                io.String.Input(
                    "filename_prefix",
                    default="loras/lokr",
                    tooltip="Below ComfyUI's output folder. Files in its folder loras are offered by the loaders.",
                ),
                io.Combo.Input(
                    "overlap",
                    options=list(OVERLAPS),
                    default=EXACT,
                    optional=True,
                    tooltip="Where adapters change one layer and their sum is not a LoKr. full difference: exact, as "
                    "large as the layer. nearest LoKr: small, and the report says how far off. refuse: an error.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default=AS_THEY_ARE,
                    optional=True,
                    advanced=True,
                    tooltip="The names in the file: as in the files loaded, or those of kohya-ss, LyCORIS, ComfyUI or "
                    "diffusers.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default=AS_THEY_ARE,
                    optional=True,
                    advanced=True,
                    tooltip="fp32 keeps every number; bf16 and fp16 round, and halve the file.",
                ),
            ],
            outputs=[
                io.String.Output("report", display_name="report", tooltip="What is in the file, and where it is.")
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, filename_prefix, overlap=EXACT, format=AS_THEY_ARE, dtype=AS_THEY_ARE, model=None, clip=None
    ) -> io.NodeOutput:
        patchers = [part for part in (model, clip and clip.patcher) if part is not None]
        loaded = [one for patcher in patchers for one in loaded_on(patcher)]
        if not loaded:
            raise LoKrValueError(
                "There is nothing to save: no LoKr node has loaded an adapter here",
                expected="a model or clip that comes from a LoKr loader, at a strength other than 0",
                found="nothing connected" if not patchers else "a model without adapters",
            )
        combined = combine([Term(one.adapter, one.strengths) for one in loaded], overlap)
        weights = {name: weight for patcher in patchers for name, weight in patcher.model.named_parameters()}
        folder, name, counter, _, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        path = os.path.join(folder, f"{name}_{counter:05}_.safetensors")
        chosen = None if format == AS_THEY_ARE else format
        save_adapter(combined.adapter, path, DTYPES[dtype], format=chosen, model=weights if chosen else None)
        lines = [f"{os.path.relpath(path, folder_paths.get_output_directory())}: {combined.text()}"]
        lines += _left_out(loaded, sum(_foreign_patches(patcher) for patcher in patchers))
        text = "\n".join(lines)
        LOG.info(text)
        write_on(cls, text)
        return io.NodeOutput(text, ui=ui.PreviewText(text))


def _foreign_patches(patcher: ModelPatcher) -> int:
    """How many patches other nodes have put on ``patcher``."""
    others = sum(not isinstance(patch[1], LoKrPatch) for patches in patcher.patches.values() for patch in patches)
    return max(0, others - sum(loaded.handed for loaded in loaded_on(patcher)))


def _left_out(loaded: list[Loaded], foreign: int) -> list[str]:
    """What is in force on the model and not in the file."""
    lines = []
    if any(one.scheduled for one in loaded):
        lines.append("note: a schedule is not in a file; the loader's strength is")
    if foreign:
        lines.append(f"note: {foreign} patches of other nodes (Load LoRA, ...) are not in the file")
    return lines
