"""Inputs and outputs that several nodes have, and how a node tells what it did."""

from __future__ import annotations

import logging
from dataclasses import asdict

from comfy_api.latest import io
from server import PromptServer

from ..lokr_core.errors import LoKrError
from ..lokr_core.matching import Report
from .files import adapter_names, adapter_path
from .mode import AUTO, LIVE, MERGE, MODES

__all__ = [
    "BLOCKS",
    "CATEGORY",
    "MODEL",
    "REPORT",
    "SCHEDULE",
    "Blocks",
    "Schedules",
    "clip_input",
    "file_input",
    "mode_input",
    "shown",
    "strength_input",
    "tell",
    "valid_file",
    "write_on",
]

CATEGORY = "loaders/lokr"
LOG = logging.getLogger("lokr")

Blocks = io.Custom("LOKR_BLOCKS")
Schedules = io.Custom("LOKR_SCHEDULE")

MODEL = io.Model.Input("model", tooltip="The diffusion model that the adapter is for.")
REPORT = io.String.Output("report", display_name="report", tooltip="What matched, what did not, and why.")
BLOCKS = Blocks.Input("blocks", optional=True, tooltip="A strength per block, from a LoKr Block Strengths node.")
SCHEDULE = Schedules.Input("schedule", optional=True, tooltip="Strength over sampling, from a LoKr Schedule node.")


def strength_input(name: str, of: str) -> io.Float.Input:
    return io.Float.Input(
        name,
        default=1.0,
        min=-2.0,
        max=2.0,
        step=0.01,
        display_mode=io.NumberDisplay.slider,
        tooltip=f"How strongly the adapter acts on the {of}: 0 not at all, 1 as trained. "
        "The slider goes from -2 to 2; any number that comes in by a connection is taken.",
    )


def file_input(name: str = "lokr_name") -> io.Combo.Input:
    return io.Combo.Input(name, options=adapter_names(), tooltip="A .safetensors file in models/loras or models/lokr.")


def clip_input() -> io.Clip.Input:
    return io.Clip.Input("clip", optional=True, tooltip="The text encoder, if the adapter was trained on it too.")


def mode_input() -> io.Combo.Input:
    return io.Combo.Input(
        "mode",
        options=list(MODES),
        default=AUTO,
        optional=True,
        advanced=True,
        tooltip="merge: into the weights; costs some seconds at every change, nothing per step. "
        "live: beside the weights; a change costs nothing, each step about a tenth more; exact on quantised models. "
        "auto: live for quantised or offloaded models and once a strength was changed, else merge.",
    )


def valid_file(name: str | None) -> bool | str:
    """Whether there is such a file, or what is wrong. None: the name comes by a connection, and is not known yet."""
    if name is None:
        return True
    try:
        adapter_path(name)
    except LoKrError as error:
        return str(error)
    return True


def tell(node: type[io.ComfyNode], reports: list[Report]) -> str:
    """The reports in the log and on the node, and all of their text."""
    for report in reports:
        LOG.log(logging.INFO if report.complete else logging.WARNING, report.text())
    if reports:
        write_on(node, "\n".join(_brief(report) if report.complete else report.text(lines=6) for report in reports))
    return "\n\n".join(report.text() for report in reports)


def write_on(node: type[io.ComfyNode], text: str) -> None:
    """Show ``text`` on the node. One that is called from code has no place of its own in a graph."""
    if node.hidden is not None and node.hidden.unique_id is not None:
        PromptServer.instance.send_progress_text(text, node.hidden.unique_id)


def shown(reports: list[Report]) -> dict[str, list[dict]]:
    """The reports as a node's ui output, which the page makes a badge of: one per file."""
    return {"lokr_report": [_shown(report) for report in reports]}


def _shown(report: Report) -> dict:
    found, total = len(report.applied) + len(report.handed), len(report.entries)
    modes = _modes(report)
    return {
        "applied": found if modes else 0,  # at strength 0 what was found is not applied
        "found": found,
        "total": total,
        "mode": " and ".join(modes),
        "level": "ok" if report.complete else "warn" if found else "error",
        "summary": _brief(report),
        "reasons": [asdict(reason) for reason in report.reasons()],
        "file": None if report.adapter.path is None else report.adapter.path.name,
        "notes": list(dict.fromkeys((*report.adapter.notes, *report.notes))),
    }


def _brief(report: Report) -> str:
    return "; ".join([report.headline, *_modes(report)])


def _modes(report: Report) -> list[str]:
    """The modes that the notes of ``apply_adapter`` name: "live: why", or "clip: merge: why" where the two differ."""
    words = [word for note in report.notes for word in note.split(": ")[:2] if word in (LIVE, MERGE)]
    return list(dict.fromkeys(words))
