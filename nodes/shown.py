"""How a node tells what it did: in the log, on the node, and to the page's badge."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from comfy_api.latest import io, ui
from server import PromptServer

from ..lokr_core.errors import LoKrError
from ..lokr_core.matching import Report
from .files import fingerprint

MOST_GROUPS = 40  # of a report, since a workflow keeps them
# A newer ComfyUI then sends the report of a cached node too, to a page that does not know it.
_CAN = "has_intermediate_output" in getattr(io.Schema, "__dataclass_fields__", ())
CACHED_REPORT = {"has_intermediate_output": True} if _CAN else {}

LOG = logging.getLogger("lokr")


@dataclass(frozen=True)
class Source:
    """Where a report's adapter comes from, and how strong it is.

    title: the line that introduces the report; row: of a stack; strengths: on the model and, where it acts, the clip
    """

    file: str
    title: str = ""
    row: int | None = None
    strengths: tuple[float, ...] = ()


def node_id(node: type[io.ComfyNode]) -> str | None:
    """The node's id in its graph. Returns None for one that is called from code."""
    return None if node.hidden is None else node.hidden.unique_id


def tell(node: type[io.ComfyNode], reports: list[Report], sources: Sequence[Source] = ()) -> str:
    """Write the reports to the log and on the node, and return their whole text, each below its source's title."""
    titles = [f"{source.title}\n" if source.title else "" for source in sources] or [""] * len(reports)
    texts = [title + report.text() for title, report in zip(titles, reports, strict=True)]
    for text, report in zip(texts, reports, strict=True):
        LOG.log(logging.INFO if report.complete else logging.WARNING, "%s", text)
    if reports:
        briefs = (_brief(report) if report.complete else report.text(lines=6) for report in reports)
        write_on(node, "\n".join(title + brief for title, brief in zip(titles, briefs, strict=True)))
    return "\n\n".join(texts)


def write_on(node: type[io.ComfyNode], text: str) -> None:
    """Show ``text`` on the node, if it is in a graph."""
    if node_id(node) is not None:
        PromptServer.instance.send_progress_text(text, node_id(node))


def pictured(picture: np.ndarray, text: str) -> tuple[torch.Tensor, dict]:
    """(ComfyUI's image of a picture (height, width, 3) of bytes, a node's ui output that shows it above the text)"""
    image = torch.from_numpy(picture.astype(np.float32) / 255.0)[None]
    return image, {**ui.PreviewImage(image).as_dict(), **ui.PreviewText(text).as_dict()}


def shown(reports: list[Report], sources: Sequence[Source] = ()) -> dict[str, list[dict]]:
    """The reports as a node's ui output, of which the page makes a badge: one per file."""
    pairs = zip(reports, sources or [None] * len(reports), strict=True)
    return {"lokr_report": [{**_shown(report), **_of(source)} for report, source in pairs]}


def _of(source: Source | None) -> dict:
    """A source's fields for the page; the fingerprint tells whether the file is still the one that was applied."""
    if source is None:
        return {}
    try:
        version = fingerprint(source.file)
    except (LoKrError, OSError):  # deleted since it was read
        version = ""
    fields = {"file": source.file, "title": source.title, "row": source.row, "fingerprint": version}
    return {**fields, "strengths": list(source.strengths)}


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
        "groups": [
            {"count": count, "name": name, "kind": one.kind, "status": one.status}
            for count, name, one in report.groups(coarse=len(report.groups()) > MOST_GROUPS)[:MOST_GROUPS]
        ],
    }


def _brief(report: Report) -> str:
    return "; ".join([report.headline, *_modes(report)])


def _modes(report: Report) -> list[str]:
    """The modes that the parts were applied in, each once."""
    return list(dict.fromkeys(mode for mode, _ in report.modes.values() if mode))
