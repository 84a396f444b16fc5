"""Routes under /lokr/ on ComfyUI's server, for the pages in web/: which adapters there are, and what is in one.

    GET /lokr/adapters                    {"adapters": [{"name", "kind", "base_model", "size", "mtime", "has_preview",
                                           "fingerprint"}]}
    GET /lokr/info?name=NAME              what the file holds: metadata, blocks, heat map, factors, layout of the blocks
    GET /lokr/preview?name=NAME           the picture beside the file
    GET /lokr/blocks?architecture=TITLE   the blocks of an architecture, and the presets for them

NAME is one that the nodes offer, and nothing else is opened: no path is ever made of what a request says. Nothing is
written. Reading is done off the event loop, two files at a time. An error is JSON: {"error", "expected", "found",
"hint"}, with its status.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import lru_cache

from aiohttp import web
from server import PromptServer

from ..lokr_core.errors import LoKrError
from ..lokr_core.formats import load_adapter
from ..lokr_core.inspection import inspect_adapter, outline
from ..lokr_core.strengths import BLOCK_LAYOUTS, block_layout_of
from .files import adapter_names, adapter_path, fingerprint, preview_path, version

LOG = logging.getLogger("lokr")

MOST_BYTES = 8 << 30  # of a file that is read whole for its energies
MOST_PICTURE = 32 << 20
MOST_METADATA = 200_000  # characters of one entry that go to the page

_reading = ThreadPoolExecutor(max_workers=2, thread_name_prefix="lokr-routes")


class Refused(Exception):
    """A request that is answered with ``status`` and an error."""

    def __init__(self, status: int, error: str, **details: str):
        super().__init__(error)
        self.status = status
        self.body = {"error": error, **details}


def register(server: PromptServer) -> None:
    """Add the routes to ComfyUI's server, before it starts."""
    for path, answer in (("adapters", _adapters), ("info", _info), ("preview", _preview), ("blocks", _blocks)):
        server.routes.get(f"/lokr/{path}")(_handler(answer))


def _handler(answer: Callable[[web.Request], web.StreamResponse | dict]):
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            found = await asyncio.get_running_loop().run_in_executor(_reading, answer, request)
        except Refused as refused:
            return web.json_response(refused.body, status=refused.status)
        except LoKrError as error:
            return web.json_response(_public(error), status=422)
        except OSError as error:
            return web.json_response({"error": f"The file cannot be read: {error.strerror}"}, status=422)
        except Exception:
            LOG.exception("a request to %s failed", request.path)
            return web.json_response({"error": "This went wrong; ComfyUI's log has the details"}, status=500)
        return found if isinstance(found, web.StreamResponse) else web.json_response(found)

    return handle


def _public(error: LoKrError) -> dict:
    """The fields of an error that show neither the file's path nor its contents."""
    fields = {"error": error.problem, "module": error.module, "expected": error.expected, "hint": error.hint}
    return {key: str(text) for key, text in fields.items() if text is not None}


def _named(request: web.Request) -> tuple[str, str]:
    """(name, path) of the file that a request names. Raises Refused unless the nodes offer it."""
    name = request.query.get("name", "")
    if not name:
        raise Refused(400, "Which file? Say ?name=", expected="a name from /lokr/adapters")
    if name not in adapter_names():
        raise Refused(404, "There is no such adapter file", expected="a name from /lokr/adapters", hint="press R")
    path = adapter_path(name)
    # ComfyUI follows links, so that models may lie on other disks; a link may lead to any other file too.
    if not os.path.realpath(path).lower().endswith(".safetensors"):
        raise Refused(422, "This is a link to a file that is not a .safetensors")
    return name, path


def _adapters(request: web.Request) -> dict:
    return {"adapters": [entry for name in adapter_names() if (entry := _entry(name))]}


def _entry(name: str) -> dict | None:
    try:
        path, mtime_ns, size = version(name)
        key = fingerprint(name)
    except (LoKrError, OSError):  # deleted since it was listed
        return None
    kind, base_model = _brief(path, mtime_ns, size)
    return {
        "name": name,
        "kind": kind,
        "base_model": base_model,
        "size": size,
        "mtime": mtime_ns / 1e9,
        "has_preview": preview_path(path) is not None,
        "fingerprint": key,
    }


@lru_cache(maxsize=4096)
def _brief(path: str, mtime_ns: int, size: int) -> tuple[str, str]:
    try:
        found = outline(path)
    except (LoKrError, OSError):
        return "unreadable", ""
    return found.kind, found.base_model


def _info(request: web.Request) -> dict:
    name, _ = _named(request)
    path, mtime_ns, size = version(name)
    if size > MOST_BYTES:
        raise Refused(413, "The file is too large to be read for this", expected=f"{MOST_BYTES:,} bytes at most")
    described = _described(path, mtime_ns, size)
    # JSON has no infinity, which the norm of a broken file may be.
    return json.loads(json.dumps({"name": name, **described}), parse_constant=lambda _: None)


@lru_cache(maxsize=32)
def _described(path: str, mtime_ns: int, size: int) -> dict:
    header = outline(path)
    described = {
        "kind": header.kind,
        "base_model": header.base_model,
        "base_model_text": header.base_model_text,
        "producer": header.producer,
        "title": header.title,
        "metadata": {key: text[:MOST_METADATA] for key, text in header.metadata.items()},
        "trigger_words": header.trigger_words,
        "modules": header.modules,
        "blocks": [],
        "heat": {"rows": [], "columns": [], "values": []},
        "factors": [],
        "notes": [],
        "layout": asdict(block_layout_of(header.base_model)),
    }
    if not header.is_lokr:
        return described
    found = inspect_adapter(load_adapter(path))
    return {
        **described,
        "blocks": [asdict(block) for block in found.heat.blocks],
        "heat": {key: getattr(found.heat, key) for key in ("rows", "columns", "values")},
        "factors": [
            {
                "module": module.name,
                "block": module.block,
                "shape": module.shape,
                "w1": module.w1,
                "w2": module.w2,
                "rank": module.rank,
                "scaling": module.scaling,
                "form": module.form,
                "kind": module.kind,
                "dora": module.dora,
                "norm": module.norm,
            }
            for module in found.modules
        ],
        "notes": [note.line for note in found.notes],
        "layout": asdict(block_layout_of(found.architecture, ((b.group, b.block) for b in found.heat.blocks))),
    }


def _preview(request: web.Request) -> web.StreamResponse:
    name, path = _named(request)
    picture = preview_path(path)
    if picture is None:
        raise Refused(404, "There is no picture beside this file", expected="a .png, .jpg or .webp of the same name")
    if os.path.getsize(picture) > MOST_PICTURE:
        raise Refused(413, "The picture is too large", expected=f"{MOST_PICTURE:,} bytes at most")
    with open(picture, "rb") as file:
        data = file.read(MOST_PICTURE)
    kind = _picture_kind(data)
    if kind is None:
        raise Refused(422, "This is not an image, despite its name", expected="PNG, JPEG, WebP or GIF")
    headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
    return web.Response(body=data, content_type=kind, headers=headers)


def _picture_kind(data: bytes) -> str | None:
    """The content type by the first bytes, since a name may lie. Returns None if they are not an image's."""
    marks = ((b"\x89PNG\r\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"))
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for mark, kind in marks if data.startswith(mark)), None)


def _blocks(request: web.Request) -> dict:
    title = request.query.get("architecture", "")
    if title and title not in BLOCK_LAYOUTS:
        raise Refused(404, "There is no layout for this architecture", expected=", ".join(BLOCK_LAYOUTS))
    layout = BLOCK_LAYOUTS.get(title) or block_layout_of(None)
    return {"architectures": list(BLOCK_LAYOUTS), **asdict(layout)}
