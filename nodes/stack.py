"""Several adapters in one node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from comfy_api.latest import io

from ..lokr_core.errors import LoKrError
from .adapters import read_adapter
from .apply import apply_adapter
from .files import adapter_path, fingerprint
from .inputs import (
    AUTO,
    BLOCKS,
    CATEGORY,
    EXPERT_TOOLTIP,
    MODEL,
    REPORT,
    SCHEDULE,
    chosen,
    clip_input,
    file_input,
    strength_input,
)
from .last_run import changed_since_last_run
from .mode import How, mode_input
from .shown import CACHED_REPORT, Source, node_id, shown, tell
from .words import SKIPPED_WORDS, WORDS, words_output

ROWS = 12
NONE, ADD = "none", "add"


def _row(number: int) -> list[io.Input]:
    """The widgets of one row. The last one expands to the next row, so editing a row never recreates another's
    widgets."""
    inputs = [
        io.Boolean.Input(f"on_{number}", default=True, tooltip=f"Whether row {number} is applied."),
        file_input(f"lokr_{number}"),
        strength_input(f"strength_model_{number}", "diffusion model"),
        strength_input(f"strength_clip_{number}", "text encoder"),
    ]
    if number < ROWS:
        options = [io.DynamicCombo.Option(NONE, []), io.DynamicCombo.Option(ADD, _row(number + 1))]
        tooltip = f"add: a row {number + 1}. none: this is the last row."
        inputs.append(io.DynamicCombo.Input(f"row_{number + 1}", options=options, tooltip=tooltip))
    return inputs


# Without a widget: one behind the rows, which come and go, would take a row's value from a saved workflow.
_EXPERT = io.String.Input("expert", optional=True, force_input=True, tooltip=EXPERT_TOOLTIP)


@dataclass(frozen=True)
class Row:
    number: int
    on: bool
    file: str
    strength_model: float
    strength_clip: float


def _rows(inputs: dict) -> Iterator[Row]:
    """The rows in ComfyUI's inputs, where each row's dict holds the next row's."""
    number = 1
    while isinstance(inputs, dict) and f"lokr_{number}" in inputs:
        names = ("on", "lokr", "strength_model", "strength_clip")
        yield Row(number, *(inputs.get(f"{name}_{number}") for name in names))
        number += 1
        inputs = inputs.get(f"row_{number}")


class LoKrStack(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoKrStack",
            display_name="LoKr Stack",
            category=CATEGORY,
            description="Loads any number of LoKr (LyCORIS) adapters, each with a switch and strengths of its own.",
            search_aliases=["lokr", "lycoris", "lokr stack", "lora stack", "multi lora"],
            inputs=[MODEL, clip_input(), mode_input(), BLOCKS, SCHEDULE, *_row(1), _EXPERT, SKIPPED_WORDS],
            outputs=[io.Model.Output("model"), io.Clip.Output("clip"), REPORT, WORDS],
            hidden=[io.Hidden.unique_id],
            **CACHED_REPORT,
        )

    # Without this ComfyUI refuses a missing file in a row that is off, and numbers beyond the sliders' ends. What is
    # returned would be repeated for each of the inputs; what is raised is one error.
    @classmethod
    def validate_inputs(cls, **inputs: object) -> bool:
        """Raises LoKrFileError if the file of a row that is on is missing."""
        for row in _rows(inputs):
            if row.on and row.file is not None:  # None: it comes by a connection, and is not known yet
                _in_row(row, adapter_path, row.file)
        return True

    @classmethod
    def fingerprint_inputs(cls, **inputs: object) -> tuple:
        return tuple(_fingerprint(row) for row in _rows(inputs))

    @classmethod
    def execute(
        cls, model, clip=None, mode=AUTO, blocks=None, schedule=None, expert=AUTO, skip_words="", **inputs
    ) -> io.NodeOutput:
        rows = [row for row in _rows(inputs) if row.on]
        adapters = [_in_row(row, read_adapter, row.file, chosen(expert)) for row in rows]
        uses = [(row.file, (row.strength_model, row.strength_clip, blocks)) for row in rows]
        reports = []
        for row, adapter, changed in zip(rows, adapters, changed_since_last_run(node_id(cls), uses), strict=True):
            how = How(mode, changed, blocks, schedule)
            strengths = row.strength_model, row.strength_clip
            model, clip, report = _in_row(row, apply_adapter, model, clip, adapter, *strengths, how)
            report.notes += _repeated(row, rows)
            reports.append(report)
        sources = [
            Source(row.file, f"row {row.number}: {row.file}", row.number, (row.strength_model, row.strength_clip))
            for row in rows
        ]
        text = tell(cls, reports, sources) or "no row is on"
        return io.NodeOutput(model, clip, text, words_output(adapters, skip_words), ui=shown(reports, sources))


def _repeated(row: Row, rows: list[Row]) -> list[str]:
    """A note if an earlier row has the same file."""
    before = [str(other.number) for other in rows if other.file == row.file and other.number < row.number]
    return [f"row {' and '.join(before)} has the same file: the strengths add up"] if before else []


def _in_row(row: Row, do, *arguments):
    """Call ``do``, and name the row and its file in a LoKrError that it raises."""
    try:
        return do(*arguments)
    except LoKrError as error:
        error.problem = f"Row {row.number} ({row.file}): {error.problem}"
        raise


def _fingerprint(row: Row) -> str | None:
    try:
        return fingerprint(row.file)
    except LoKrError:
        return None
