"""The pictures beside adapter files: shown, and made of a picture of ComfyUI's own folders."""

from __future__ import annotations

import json
import os

import folder_paths
from aiohttp import web

from .answers import Refused, named
from .files import preview_path

MOST_PICTURE = 32 << 20
_KINDS = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}  # content type -> a preview's ending


def preview(request: web.Request, _body: bytes) -> web.StreamResponse:
    name, path = named(request)
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


def keep_preview(request: web.Request, body: bytes) -> dict:
    """Copy a picture that ComfyUI has made to the place beside an adapter file.

    The body is JSON: {"filename", "subfolder", "type"} as the page knows a picture, and {"replace": whether a picture
    that is there may be replaced}. Nothing but that one picture is written.
    """
    if request.content_type != "application/json":  # what a form of another site cannot send
        raise Refused(415, "The body is not JSON", expected="application/json")
    _, path = named(request)
    try:
        asked = json.loads(body)
        data = _picture_of(str(asked["type"]), str(asked.get("subfolder", "")), str(asked["filename"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Refused(400, "Which picture?", expected="filename, subfolder and type") from None
    ending = _KINDS.get(_picture_kind(data) or "")
    if ending is None:
        raise Refused(422, "This picture cannot be a preview", expected="PNG, JPEG or WebP")
    before = preview_path(path)
    target = os.path.splitext(path)[0] + ending
    if (before is not None or os.path.lexists(target)) and asked.get("replace") is not True:
        raise Refused(409, "The file has a picture already", hint="send replace: true to replace it")
    if os.path.islink(target):
        raise Refused(422, "The picture beside the file is a link, and is left as it is")
    _write(target, data)
    if before is not None and before != target and not os.path.islink(before):
        os.remove(before)
    return {"preview": os.path.basename(target)}


def _picture_of(kind: str, subfolder: str, name: str) -> bytes:
    """The bytes of a picture in ComfyUI's output, temp or input folder. Raises Refused if it is not there."""
    folder = folder_paths.get_directory_by_type(kind)
    path = os.path.realpath(os.path.join(folder, subfolder, name)) if folder else ""
    inside = folder and os.path.commonpath([path, os.path.realpath(folder)]) == os.path.realpath(folder)
    if not inside or not os.path.isfile(path) or os.path.getsize(path) > MOST_PICTURE:
        raise Refused(404, "There is no such picture in ComfyUI's folders")
    with open(path, "rb") as file:
        return file.read(MOST_PICTURE)


def _write(path: str, data: bytes) -> None:
    """Write a file as a whole or not at all."""
    part = f"{path}.{os.getpid()}.part"
    try:
        with open(part, "xb") as file:
            file.write(data)
        os.replace(part, path)
    finally:
        if os.path.exists(part):
            os.remove(part)
