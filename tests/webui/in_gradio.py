"""Runs in a host's interpreter, with its Gradio and without the host, and prints whom ``webui.login`` lets in.

in_gradio.py "program's login" "person's login" PORT
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from types import ModuleType, SimpleNamespace

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
sys.path.insert(0, str(Path(__file__).parents[2]))
program, person, port = sys.argv[1], sys.argv[2], int(sys.argv[3])

modules, modules_shared = ModuleType("modules"), ModuleType("modules.shared")
modules.shared = modules_shared
modules_shared.cmd_opts = SimpleNamespace(api_auth=program)
sys.modules |= {"modules": modules, "modules.shared": modules_shared}

with contextlib.redirect_stdout(sys.stderr):
    import gradio as gr

from webui.login import PAGE_KEY, guard  # noqa: E402

URL = f"http://127.0.0.1:{port}"


def status(headers: dict | None = None) -> list:
    """The answer's status, and whether a browser would show its own dialog."""
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{URL}/lokr/v1/test", headers=headers or {})) as answer:
            return [answer.status, False]
    except urllib.error.HTTPError as error:
        return [error.code, "WWW-Authenticate" in error.headers]


def basic(login: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}


def cookie() -> dict[str, str]:
    user, password = person.split(":")
    data = urllib.parse.urlencode({"username": user, "password": password}).encode()
    with urllib.request.urlopen(f"{URL}/login", data) as answer:
        cookies = [each.partition(";")[0] for each in answer.headers.get_all("Set-Cookie")]
    return {"Cookie": "; ".join(cookies)}


def table() -> dict:
    with gr.Blocks() as demo:
        gr.HTML("page")
    launched = demo.launch(auth=[tuple(person.split(":"))], server_name="127.0.0.1", server_port=port, quiet=True,
                           prevent_thread_lock=True, show_api=False)  # fmt: skip
    app = launched[0]
    app.add_api_route("/lokr/v1/test", lambda: {}, methods=["GET"], dependencies=guard(app))
    logged_in, auth, found = cookie(), app.auth, {}
    for mode, (asks_programs, asks_persons) in {"both": (1, 1), "api": (1, 0), "page": (0, 1), "none": (0, 0)}.items():
        modules_shared.cmd_opts.api_auth = program if asks_programs else None
        app.auth = auth if asks_persons else None
        found[mode] = {
            "program": status(basic(program)),
            "other program": status(basic("program:guess")),
            "person": status(logged_in),
            "panel": status({"X-LoKr-Page": PAGE_KEY}),
            "other panel": status({"X-LoKr-Page": "guess"}),
            "stranger": status(),
        }
    demo.close()
    return found


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        result = table()
    print(json.dumps(result))
    sys.stdout.flush()
    os._exit(0)  # the server's thread would be waited for
