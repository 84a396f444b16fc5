"""The node that gives blocks of a model strengths of their own."""

from __future__ import annotations

from comfy_api.latest import io

from ..lokr_core.errors import LoKrError
from ..lokr_core.strengths import PRESETS, BlockStrengths
from .inputs import CATEGORY, Blocks


class LoKrBlockStrengths(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoKrBlockStrengths",
            display_name="LoKr Block Strengths",
            category=CATEGORY,
            description="A strength for each block of the diffusion model, for LoKr loaders.",
            search_aliases=["lokr", "block weight", "lora block weight", "lbw"],
            inputs=[
                io.Combo.Input(
                    "preset", options=list(PRESETS), default="none", tooltip="A start; what the text says comes on top."
                ),
                io.String.Input(
                    "strengths",
                    default="",
                    multiline=True,
                    placeholder="IN:0.2, MID:1, OUT4-8:0.5\ndouble_blocks.*.img_attn=0.5",
                    tooltip="name:number, with commas or lines between; the last that names a layer counts, what is "
                    "not named keeps 1. Names: IN, MID, OUT (UNets), DOUBLE, SINGLE (Flux), any other list of blocks "
                    "by its name, IN3 or IN0-5 for some of its blocks, OTHER for the rest, ALL, or a pattern of layer "
                    "names with *. They multiply the loader's strength.",
                ),
            ],
            outputs=[Blocks.Output("blocks", tooltip="For the blocks input of a LoKr loader or stack.")],
        )

    @classmethod
    def validate_inputs(cls, strengths: str | None) -> bool | str:
        try:
            BlockStrengths.parse(strengths or "")  # None: it comes by a connection, and is not known yet
        except LoKrError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, preset: str, strengths: str) -> io.NodeOutput:
        return io.NodeOutput(BlockStrengths.parse(f"{PRESETS[preset]}\n{strengths}"))
