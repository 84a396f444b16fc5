"""``GET /lokr/v1/adapters`` and ``GET /lokr/v1/report?name=``.

Files are asked for by the names that a prompt calls them by, so nothing outside the model folders can be. Who may ask:
see ``login``. The door calls ``register()`` while scripts load.
"""

from __future__ import annotations

from fastapi import FastAPI, HTTPException
from modules import script_callbacks

from lokr_core.errors import LoKrError

from . import library, network
from .listing import Entry, UnknownName
from .login import guard


def register() -> None:
    script_callbacks.on_app_started(lambda _demo, app: add_routes(app))


def add_routes(app: FastAPI) -> None:
    only = guard(app)
    app.add_api_route("/lokr/v1/adapters", adapters, methods=["GET"], dependencies=only)
    app.add_api_route("/lokr/v1/report", report, methods=["GET"], dependencies=only)


def adapters() -> list[dict]:
    """The LoKr files as they are on disk now."""
    return [_described(entry) for entry in library.entries()]


def report(name: str) -> dict:
    """What becomes of each module of the adapter ``name`` on the loaded model.

    404: no such adapter, the detail names near ones; 422: the file is broken or not a LoKr; 503: no model is loaded.
    """
    try:
        entry = library.find(name)
        found = network.report(entry)
    except UnknownName as error:
        raise HTTPException(404, {"error": error.problem, "near": error.near}) from None
    except LoKrError as error:
        error.file = error.file and entry.path.name  # not the server's folders
        raise HTTPException(422, {"error": str(error)}) from None
    if found is None:
        raise HTTPException(503, {"error": "No model is loaded yet"})
    return {**found.as_dict(), **_described(entry)}


def _described(entry: Entry) -> dict:
    """``file`` is the path below its model folder. ``hash`` is "" until it has been taken once."""
    outline = entry.outline
    folder = library.folder_of(entry.path)
    return {
        "name": entry.name,
        "alias": entry.alias,
        "title": entry.title,
        "file": entry.path.relative_to(folder).as_posix() if folder else entry.path.name,
        "hash": entry.known_hash,
        "size": entry.version[1],
        "kind": outline.kind,
        "base_model": outline.base_model,
        "base_model_text": outline.base_model_text,
        "producer": outline.producer,
        "lokr_modules": outline.modules,
        "trigger_words": outline.trigger_words,
    }
