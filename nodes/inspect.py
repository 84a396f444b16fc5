"""The node that shows what is in an adapter file."""

from __future__ import annotations

import comfy.lora
import comfy.utils
import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io, ui

from ..lokr_core.inspection import base_norms, draw_heat_map, inspect_adapter
from ..lokr_core.live import dequantized
from .adapters import read_adapter
from .bridge import file_of, plan_of
from .files import fingerprint
from .inputs import CATEGORY, clip_input, file_input, valid_file


class LoKrInspect(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoKrInspect",
            display_name="LoKr Inspect",
            category=CATEGORY,
            description="What an adapter file holds, and where in the model it acts, as text and as a picture.",
            search_aliases=["lokr", "lora info", "lora metadata", "trigger words", "heat map"],
            inputs=[
                file_input(),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="With it the numbers are shares of the model's weights, and the text says what matches.",
                ),
                clip_input(),
            ],
            outputs=[
                io.Image.Output("heat_map", tooltip="How much each block changes, by kind of layer."),
                io.String.Output("text", tooltip="What the file holds, and what looks wrong in it."),
                io.String.Output("trigger_words", tooltip="The words that its metadata names, with commas between."),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, lokr_name) -> bool | str:
        return valid_file(lokr_name)

    @classmethod
    def fingerprint_inputs(cls, lokr_name, **_: object) -> str:
        return fingerprint(lokr_name)

    @classmethod
    def execute(cls, lokr_name, model=None, clip=None) -> io.NodeOutput:
        adapter = read_adapter(lokr_name)
        plans = []
        if model is not None:
            plan = plan_of(adapter, model.model, comfy.lora.model_lora_keys_unet, file_of(model))
            plans.append((model, plan))
        if clip is not None:
            plans.append((clip.patcher, plan_of(adapter, clip.cond_stage_model, comfy.lora.model_lora_keys_clip)))
        weights = ((match, _unpatched(patcher, match.weight)) for patcher, plan in plans for match in plan.matches)
        found = inspect_adapter(adapter, base_norms(weights) if plans else None)
        texts = [found.text(), *(plan.report.text() for _, plan in plans)]
        title = found.title or (found.file.stem if found.file else "")
        image = torch.from_numpy(draw_heat_map(found.heat, title).astype(np.float32) / 255.0)[None]
        text = "\n\n".join(texts)
        shown = {**ui.PreviewImage(image).as_dict(), **ui.PreviewText(text).as_dict()}
        return io.NodeOutput(image, text, ", ".join(found.trigger_words), ui=shown)


def _unpatched(patcher: ModelPatcher, name: str) -> torch.Tensor:
    """The numbers of a weight without ComfyUI's patches."""
    backup = patcher.backup.get(name)
    return dequantized(comfy.utils.get_attr(patcher.model, name) if backup is None else backup.weight)
