"""The node that shows what is in an adapter file."""

from __future__ import annotations

import comfy.lora
from comfy_api.latest import io

from ..lokr_core.inspection import base_norms, draw_heat_map, inspect_adapter
from .adapters import read_adapter
from .bridge import file_of, plan_of
from .inputs import CATEGORY, FileNode, clip_input, file_input
from .shown import pictured
from .weights import unpatched_weight


class LoKrInspect(FileNode):
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
    def execute(cls, lokr_name, model=None, clip=None) -> io.NodeOutput:
        adapter = read_adapter(lokr_name)
        plans = []
        if model is not None:
            plan = plan_of(adapter, model.model, comfy.lora.model_lora_keys_unet, file_of(model))
            plans.append((model, plan))
        if clip is not None:
            plans.append((clip.patcher, plan_of(adapter, clip.cond_stage_model, comfy.lora.model_lora_keys_clip)))
        weights = (
            (match, unpatched_weight(patcher, match.weight)) for patcher, plan in plans for match in plan.matches
        )
        found = inspect_adapter(adapter, base_norms(weights) if plans else None)
        texts = [found.text(), *(plan.report.text() for _, plan in plans)]
        title = found.title or (found.file.stem if found.file else "")
        text = "\n\n".join(texts)
        image, shown = pictured(draw_heat_map(found.heat, title), text)
        return io.NodeOutput(image, text, ", ".join(found.trigger_words), ui=shown)
