"""The trigger words of what a node has loaded, as an output."""

from __future__ import annotations

from collections.abc import Iterable

from comfy_api.latest import io

from ..lokr_core.adapter import Adapter
from ..lokr_core.inspection import words_of

_TOOLTIP = "Trigger words to leave out of the output trigger_words, with commas between."

WORDS = io.String.Output(
    "trigger_words",
    display_name="trigger_words",
    tooltip="The trigger words of what is loaded, with commas between: those of the sidecars, else of the metadata.",
)
# For nodes whose widgets come and go: a widget behind them would take a row's value from a saved workflow.
SKIPPED_WORDS = io.String.Input("skip_words", optional=True, force_input=True, tooltip=_TOOLTIP)


def skipped_words_input() -> io.String.Input:
    """The last of a node's inputs, since saved workflows count its widgets."""
    return io.String.Input("skip_words", default="", optional=True, advanced=True, tooltip=_TOOLTIP)


def words_output(adapters: Iterable[Adapter], skip: str | None) -> str:
    """The trigger words of ``adapters``, each once, without those that ``skip`` names, with commas between."""
    left_out = {word.strip().lower() for word in (skip or "").split(",")}
    words = dict.fromkeys(word for adapter in adapters for word in words_of(adapter.path, adapter.metadata))
    return ", ".join(word for word in words if word.lower() not in left_out)
