"""The loader nodes."""

from __future__ import annotations

from comfy_api.latest import io

from .adapters import read_adapter
from .apply import apply_adapter
from .inputs import (
    AUTO,
    BLOCKS,
    CATEGORY,
    MODEL,
    REPORT,
    SCHEDULE,
    FileNode,
    chosen,
    clip_input,
    expert_input,
    file_input,
    strength_input,
)
from .last_run import changed_since_last_run
from .mode import How, mode_input
from .shown import CACHED_REPORT, Source, node_id, shown, tell
from .words import WORDS, skipped_words_input, words_output

ALIASES = ["lokr", "lycoris", "kronecker", "load lokr", "lora loader", "lora"]


def _how(node: type[io.ComfyNode], name: str, strengths: tuple, mode: str, blocks, schedule) -> How:
    (changed,) = changed_since_last_run(node_id(node), [(name, (*strengths, blocks))])
    return How(mode, changed, blocks, schedule)


class LoKrLoader(FileNode):
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
                expert_input(),
                skipped_words_input(),
            ],
            outputs=[io.Model.Output("model"), io.Clip.Output("clip"), REPORT, WORDS],
            hidden=[io.Hidden.unique_id],
            **CACHED_REPORT,
        )

    @classmethod
    def execute(
        cls,
        model,
        lokr_name,
        strength_model,
        strength_clip,
        clip=None,
        mode=AUTO,
        blocks=None,
        schedule=None,
        expert=AUTO,
        skip_words="",
    ) -> io.NodeOutput:
        strengths = strength_model, strength_clip
        how = _how(cls, lokr_name, strengths, mode, blocks, schedule)
        adapter = read_adapter(lokr_name, chosen(expert))
        model, clip, report = apply_adapter(model, clip, adapter, *strengths, how)
        words = words_output([adapter], skip_words)
        told = shown([report], [Source(lokr_name, strengths=strengths)])
        return io.NodeOutput(model, clip, tell(cls, [report]), words, ui=told)


class LoKrLoaderModelOnly(FileNode):
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
                expert_input(),
                skipped_words_input(),
            ],
            outputs=[io.Model.Output("model"), REPORT, WORDS],
            hidden=[io.Hidden.unique_id],
            **CACHED_REPORT,
        )

    @classmethod
    def execute(
        cls, model, lokr_name, strength_model, mode=AUTO, blocks=None, schedule=None, expert=AUTO, skip_words=""
    ) -> io.NodeOutput:
        strengths = strength_model, 0.0
        how = _how(cls, lokr_name, strengths, mode, blocks, schedule)
        adapter = read_adapter(lokr_name, chosen(expert))
        model, _, report = apply_adapter(model, None, adapter, *strengths, how)
        words = words_output([adapter], skip_words)
        told = shown([report], [Source(lokr_name, strengths=(strength_model,))])
        return io.NodeOutput(model, tell(cls, [report]), words, ui=told)
