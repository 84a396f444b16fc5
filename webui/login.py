"""Who may call our routes, in a host that asks for a login: whoever may call the host's own, and its page.

``--api-auth``: programs name themselves as to ``/sdapi``, by HTTP's basic authentication.
``--gradio-auth``: the page has a login, and who is logged in there may call.
Where the page has none, whoever has the page may call from it: our panel sends a key that stands in the page.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from modules import shared

PAGE_KEY = secrets.token_urlsafe(16)
_KEY_HEADER = "X-LoKr-Page"  # of the panel's requests, see javascript/lokr.js
_basic = Depends(HTTPBasic(auto_error=False))


def guard(app: FastAPI) -> list:
    """The dependencies of a route of ours: it answers 401 to whom the host would not let in."""

    def check(
        request: Request,
        user: str | None = Depends(_user_of_the_page(app)),
        given: HTTPBasicCredentials | None = _basic,
    ) -> None:
        users = [pair for pair in (shared.cmd_opts.api_auth or "").split(",") if pair]
        page_has_login = any(getattr(app, name, None) is not None for name in ("auth", "auth_dependency"))
        key = request.headers.get(_KEY_HEADER)
        by_page = user is not None if page_has_login else _same(key or "", PAGE_KEY)
        by_name = given is not None and any(_same(f"{given.username}:{given.password}", pair) for pair in users)
        if (users or page_has_login) and not by_page and not by_name:
            # A browser answers this header with a dialog, which would cover the page.
            headers = {"WWW-Authenticate": "Basic"} if users and key is None else None
            raise HTTPException(401, {"error": "Not logged in"}, headers)

    return [Depends(check)]


def _user_of_the_page(app: FastAPI) -> Callable:
    """Gradio's own function from a request to the name of who is logged in, None if nobody is."""
    found = (route.endpoint for route in app.routes if getattr(route, "path", "") == "/user")
    return next(found, lambda: None)


def _same(given: str, expected: str) -> bool:
    return secrets.compare_digest(given.encode(), expected.encode())
