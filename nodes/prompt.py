"""The node that reads adapters from a prompt."""

from __future__ import annotations

from comfy_api.latest import io

from ..lokr_core.errors import LoKrError, LoKrFileError
from ..lokr_core.strengths import read_tags
from .adapters import read_adapter
from .apply import apply_adapter
from .files import adapter_called, fingerprint
from .inputs import AUTO, BLOCKS, CATEGORY, MODEL, REPORT, SCHEDULE, clip_input
from .last_run import changed_since_last_run
from .mode import How, mode_input
from .shown import CACHED_REPORT, Source, node_id, shown, tell
from .words import WORDS, skipped_words_input, words_output


class LoKrPromptLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoKrPromptLoader",
            display_name="LoKr Prompt Loader",
            category=CATEGORY,
            description="Loads the LoKr adapters that a prompt names as <lokr:name:0.8>, and cleans it of them.",
            search_aliases=["lokr", "lycoris", "prompt lora", "lora tag", "a1111 lora"],
            inputs=[
                MODEL,
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    placeholder="a lighthouse at dusk <lokr:style:0.8>",
                    tooltip="<lokr:name> or <lokr:name:strength>; <lokr:name:0.8:0.6> is 0.8 on the text encoder and "
                    "0.6 on the model, as A1111 has it for LoRA; te= and unet= say which. The name is a file's, with "
                    "or without its folder and ending. expert=high or expert=low chooses one of two experts in a file.",
                ),
                clip_input(),
                mode_input(),
                BLOCKS,
                SCHEDULE,
                skipped_words_input(),
            ],
            outputs=[
                io.Model.Output("model"),
                io.Clip.Output("clip"),
                io.String.Output("prompt", display_name="prompt", tooltip="The prompt without its tags."),
                REPORT,
                WORDS,
            ],
            hidden=[io.Hidden.unique_id],
            **CACHED_REPORT,
        )

    @classmethod
    def validate_inputs(cls, prompt: str | None) -> bool | str:
        try:
            for tag in read_tags(prompt or "")[1]:
                _file(tag)
        except LoKrError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, prompt: str | None, **_: object) -> tuple:
        return tuple(fingerprint(_file(tag)) for tag in read_tags(prompt or "")[1])

    @classmethod
    def execute(cls, model, prompt, clip=None, mode=AUTO, blocks=None, schedule=None, skip_words="") -> io.NodeOutput:
        cleaned, tags = read_tags(prompt)
        files = [_file(tag) for tag in tags]
        uses = [(file, (tag.unet, tag.te, blocks)) for file, tag in zip(files, tags, strict=True)]
        reports, adapters = [], [read_adapter(file, tag.expert) for file, tag in zip(files, tags, strict=True)]
        for adapter, tag, changed in zip(adapters, tags, changed_since_last_run(node_id(cls), uses), strict=True):
            how = How(mode, changed, blocks, schedule)
            model, clip, report = apply_adapter(model, clip, adapter, tag.unet, tag.te, how)
            reports.append(report)
        sources = [
            Source(file, f"{tag.text}: {file}", strengths=(tag.unet, tag.te))
            for file, tag in zip(files, tags, strict=True)
        ]
        text = tell(cls, reports, sources) or "the prompt has no <lokr:…> tag"
        words = words_output(adapters, skip_words)
        return io.NodeOutput(model, clip, cleaned, text, words, ui=shown(reports, sources))


def _file(tag) -> str:
    try:
        return adapter_called(tag.name)
    except LoKrFileError as error:
        error.problem = f"{error.problem}: {tag.text}"
        raise
