"""Routes under /lokr/ on ComfyUI's server, for the pages in web/: which adapters there are, and what is in one.

    GET  /lokr/adapters                   {"adapters": [{"name", "kind", "base_model", "size", "mtime", "has_preview",
                                           "fingerprint", …}], "reading", "position"}: see ``Listing.answer``
    GET  /lokr/adapters?since=POSITION    the same of those that were read since an answer of that position
    GET  /lokr/info?name=NAME             what the file holds: metadata, blocks, heat map, factors, layout of the blocks
    GET  /lokr/hash?name=NAME             {"sha256", "autov2"} of the file's bytes
    GET  /lokr/preview?name=NAME          the picture beside the file
    POST /lokr/preview?name=NAME          copies a picture of ComfyUI's to there: see ``keep_preview``
    POST /lokr/find?name=FILE&size=BYTES  {"name"} of the file with that name, size and header, which is the body
    GET  /lokr/model?folder=F&name=NAME   {"base_models"} in a checkpoint or diffusion model
    GET  /lokr/blocks?architecture=TITLE  the blocks of an architecture, and the presets for them

NAME is one that the nodes offer, and nothing else is opened: no path is ever made of what a request says. Nothing is
written but a preview. Reading is done off the event loop, two files at a time. An error is JSON: {"error", "expected",
"found", "hint"}, with its status.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from functools import cache, lru_cache

import folder_paths
from aiohttp import web
from server import PromptServer

from ..lokr_core.checkpoints import Checkpoint
from ..lokr_core.formats import load_adapter
from ..lokr_core.inspection import base_model_spelled, inspect_adapter, outline, read_sidecars
from ..lokr_core.matching import Target
from ..lokr_core.strengths import BLOCK_LAYOUTS, block_layout_of
from .answers import Refused, handler, named
from .files import adapter_names, adapter_path, version
from .listing import Listing, database_path
from .pictures import keep_preview, preview

MOST_BYTES = 8 << 30  # of a file that is read whole for its energies
MOST_HEADER = 32 << 20
MOST_METADATA = 200_000  # characters of one entry that go to the page


def register(server: PromptServer) -> None:
    """Add the routes to ComfyUI's server, before it starts."""
    answers = {"adapters": _adapters, "info": _info, "hash": _hash, "preview": preview, "model": _model}
    for path, answer in {**answers, "blocks": _blocks}.items():
        server.routes.get(f"/lokr/{path}")(handler(answer))
    server.routes.post("/lokr/preview")(handler(keep_preview, most=10_000))
    server.routes.post("/lokr/find")(handler(_find, most=MOST_HEADER))


def _adapters(request: web.Request, _body: bytes) -> dict:
    since = request.query.get("since")
    if since is not None and not since.isdecimal():
        raise Refused(400, "since is a position of an earlier answer", expected="a whole number")
    return _listing().answer(None if since is None else int(since[:12]))


@cache
def _listing() -> Listing:
    return Listing(database_path())


def _info(request: web.Request, _body: bytes) -> dict:
    name, _ = named(request)
    path, mtime_ns, size = version(name)
    if size > MOST_BYTES:
        raise Refused(413, "The file is too large to be read for this", expected=f"{MOST_BYTES:,} bytes at most")
    described = _described(path, mtime_ns, size)
    beside = {"size": size, "mtime": mtime_ns / 1e9, "sidecar": asdict(read_sidecars(path))}
    # JSON has no infinity, which the norm of a broken file may be.
    return json.loads(json.dumps({"name": name, **described, **beside}), parse_constant=lambda _: None)


def _hash(request: web.Request, _body: bytes) -> dict:
    name, _ = named(request)
    digest = _sha256(*version(name))
    return {"sha256": digest, "autov2": digest[:10]}


@lru_cache(maxsize=1000)
def _sha256(path: str, mtime_ns: int, size: int) -> str:
    with open(path, "rb") as file:
        found = hashlib.sha256()
        while part := file.read(1 << 24):
            found.update(part)
    return found.hexdigest()


def _find(request: web.Request, body: bytes) -> dict:
    """The adapter file with the name, the size and the header of a file that a person has at hand."""
    wanted, size = request.query.get("name", ""), request.query.get("size", "")
    for name in adapter_names():
        if name.replace("\\", "/").rpartition("/")[2] == wanted and size == str(version(name)[2]):
            with open(adapter_path(name), "rb") as file:
                if body and file.read(len(body)) == body:
                    return {"name": name}
    raise Refused(404, "No folder for adapters has this file", expected="the same name, size and header")


MODELS = ("checkpoints", "diffusion_models")  # ComfyUI's folders with models for adapters


def _model(request: web.Request, _body: bytes) -> dict:
    folder, name = request.query.get("folder", ""), request.query.get("name", "")
    if folder not in MODELS or name not in folder_paths.get_filename_list(folder):
        raise Refused(404, "There is no such model", expected="a name that a loader of ComfyUI offers")
    path = folder_paths.get_full_path(folder, name)
    status = os.stat(path)
    return {"base_models": _bases_of(path, status.st_mtime_ns, status.st_size)}


@lru_cache(maxsize=200)
def _bases_of(path: str, mtime_ns: int, size: int) -> list[str]:
    """The titles of a model's architectures, by the names and shapes in its header."""
    if not path.lower().endswith(".safetensors"):
        return []
    (part,) = Checkpoint.of(path).parts
    return Target.of(part.header.tensors, path).architectures


@lru_cache(maxsize=32)
def _described(path: str, mtime_ns: int, size: int) -> dict:
    header = outline(path)
    described = {
        "kind": header.kind,
        "base_model": base_model_spelled(header.base_model),
        "guessed": header.guessed,
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


def _blocks(request: web.Request, _body: bytes) -> dict:
    title = request.query.get("architecture", "")
    if title and title not in BLOCK_LAYOUTS:
        raise Refused(404, "There is no layout for this architecture", expected=", ".join(BLOCK_LAYOUTS))
    layout = BLOCK_LAYOUTS.get(title) or block_layout_of(None)
    return {"architectures": list(BLOCK_LAYOUTS), **asdict(layout)}
