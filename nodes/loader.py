"""The loader nodes."""

from __future__ import annotations

from comfy_api.latest import io

from .apply import apply_adapter
from .files import fingerprint, read_adapter
from .inputs import (
    BLOCKS,
    CATEGORY,
    MODEL,
    REPORT,
    SCHEDULE,
    clip_input,
    file_input,
    mode_input,
    shown,
    strength_input,
    tell,
    valid_file,
)
from .mode import AUTO, How, changed_since_last_run

__all__ = ["LoKrLoader", "LoKrLoaderModelOnly"]

ALIASES = ["lokr", "lycoris", "kronecker", "load lokr", "lora loader", "lora"]


def _load(node: type[io.ComfyNode], model, clip, name: str, strengths: tuple, mode: str, blocks, schedule):
    """What both loaders do: (model, clip, report)."""
    unique_id = node.hidden.unique_id if node.hidden is not None else None
    (changed,) = changed_since_last_run(unique_id, [(name, (*strengths, blocks))])
    how = How(mode, changed, blocks, schedule)
    model, clip, report = apply_adapter(model, clip, read_adapter(name), *strengths, how)
    return model, clip, report


class LoKrLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoKrLoader",
            display_name="LoKr Loader",
            category=CATEGORY,
            description="Loads a LoKr (LyCORIS) adapter of any trainer into a model and, where connected, a clip.",
            search_aliases=ALIASES,
            inputs=[
                MODEL,
                file_input(),
                strength_input("strength_model", "diffusion model"),
                strength_input("strength_clip", "text encoder"),
                clip_input(),
                mode_input(),
                BLOCKS,
                SCHEDULE,
            ],
            outputs=[io.Model.Output("model"), io.Clip.Output("clip"), REPORT],
            hidden=[io.Hidden.unique_id],
        )

    # Naming the strengths here is what makes ComfyUI take numbers beyond the slider's ends.
    @classmethod
    def validate_inputs(cls, lokr_name: str, strength_model: float, strength_clip: float) -> bool | str:
        return valid_file(lokr_name)

    @classmethod
    def fingerprint_inputs(cls, lokr_name: str, **_: object) -> str:
        return fingerprint(lokr_name)

    @classmethod
    def execute(
        cls, model, lokr_name, strength_model, strength_clip, clip=None, mode=AUTO, blocks=None, schedule=None
    ) -> io.NodeOutput:
        strengths = strength_model, strength_clip
        model, clip, report = _load(cls, model, clip, lokr_name, strengths, mode, blocks, schedule)
        return io.NodeOutput(model, clip, tell(cls, [report]), ui=shown([report]))


class LoKrLoaderModelOnly(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoKrLoaderModelOnly",
            display_name="LoKr Loader (Model Only)",
            category=CATEGORY,
            description="Loads a LoKr (LyCORIS) adapter of any trainer into a model.",
            search_aliases=ALIASES,
            inputs=[
                MODEL,
                file_input(),
                strength_input("strength_model", "diffusion model"),
                mode_input(),
                BLOCKS,
                SCHEDULE,
            ],
            outputs=[io.Model.Output("model"), REPORT],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, lokr_name: str, strength_model: float) -> bool | str:
        return valid_file(lokr_name)

    @classmethod
    def fingerprint_inputs(cls, lokr_name: str, **_: object) -> str:
        return fingerprint(lokr_name)

    @classmethod
    def execute(cls, model, lokr_name, strength_model, mode=AUTO, blocks=None, schedule=None) -> io.NodeOutput:
        model, _, report = _load(cls, model, None, lokr_name, (strength_model, 0.0), mode, blocks, schedule)
        return io.NodeOutput(model, tell(cls, [report]), ui=shown([report]))
