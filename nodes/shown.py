"""How a node tells what it did: in the log, on the node, and to the page's badge."""

from __future__ import annotations

import logging
from dataclasses import asdict

from comfy_api.latest import io
from server import PromptServer

from ..lokr_core.matching import Report

LOG = logging.getLogger("lokr")


def node_id(node: type[io.ComfyNode]) -> str | None:
    """The node's id in its graph. Returns None for one that is called from code."""
    return None if node.hidden is None else node.hidden.unique_id


def tell(node: type[io.ComfyNode], reports: list[Report]) -> str:
    """Write the reports to the log and on the node, and return their whole text."""
    for report in reports:
        LOG.log(logging.INFO if report.complete else logging.WARNING, report.text())
    if reports:
        write_on(node, "\n".join(_brief(report) if report.complete else report.text(lines=6) for report in reports))
    return "\n\n".join(report.text() for report in reports)


def write_on(node: type[io.ComfyNode], text: str) -> None:
    """Show ``text`` on the node, if it is in a graph."""
    if node_id(node) is not None:
        PromptServer.instance.send_progress_text(text, node_id(node))


def shown(reports: list[Report]) -> dict[str, list[dict]]:
    """The reports as a node's ui output, of which the page makes a badge: one per file."""
    return {"lokr_report": [_shown(report) for report in reports]}


def _shown(report: Report) -> dict:
    found, total, modes = len(report.applied) + len(report.handed), len(report.entries), _modes(report)
    return {
        "applied": found if modes else 0,  # at strength 0 what was found is not applied
        "found": found,
        "total": total,
        "mode": " and ".join(modes),
        "level": "ok" if report.complete else "warn" if found else "error",
        "summary": _brief(report),
        "reasons": [asdict(reason) for reason in report.reasons()],
        "file": None if report.adapter.path is None else report.adapter.path.name,
        "notes": list(dict.fromkeys(report.remarks)),
    }


def _brief(report: Report) -> str:
    return "; ".join([report.headline, *_modes(report)])


def _modes(report: Report) -> list[str]:
    """The modes that the parts were applied in, each once."""
    return list(dict.fromkeys(mode for mode, _ in report.modes.values() if mode))
