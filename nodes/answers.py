"""What all routes under /lokr/ share: the file that a request names, and an error as JSON."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web

from ..lokr_core.errors import LoKrError
from .files import adapter_names, adapter_path, is_plain_file

LOG = logging.getLogger("lokr")

_reading = ThreadPoolExecutor(max_workers=2, thread_name_prefix="lokr-routes")


class Refused(Exception):
    """A request that is answered with ``status`` and an error."""

    def __init__(self, status: int, error: str, **details: str):
        super().__init__(error)
        self.status = status
        self.body = {"error": error, **details}


Answer = Callable[[web.Request, bytes], "web.StreamResponse | dict"]


def handler(answer: Answer, most: int = 0):
    """A handler of requests: ``answer`` runs off the event loop, with the request and its body of ``most`` bytes."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            body = await _body(request, most) if most else b""
            found = await asyncio.get_running_loop().run_in_executor(_reading, answer, request, body)
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


async def _body(request: web.Request, most: int) -> bytes:
    if request.content_length is None or request.content_length > most:
        raise Refused(413, "The request is too large", expected=f"{most:,} bytes at most")
    return await request.read()


def named(request: web.Request) -> tuple[str, str]:
    """(name, path) of the file that a request names. Raises Refused unless the nodes offer it."""
    name = request.query.get("name", "")
    if not name:
        raise Refused(400, "Which file? Say ?name=", expected="a name from /lokr/adapters")
    if name not in adapter_names():
        hint = "pick another file, or put it there and press R"
        expected = "a file in models/loras or models/lokr"
        raise Refused(404, "There is no such adapter file", expected=expected, hint=hint)
    path = adapter_path(name)
    if not is_plain_file(path):
        raise Refused(422, "This is a link to a file that is not a .safetensors")
    return name, path
