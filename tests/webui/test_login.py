"""Who is answered by our routes and sees our panel, in a host that asks for a login."""

from __future__ import annotations

import base64
import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hosts import A1111, WebServer, find_a1111, find_forge, find_forge_neo, find_reforge, free_port
from tests.webui.adapters import lokr, save
from tests.webui.conftest import SmallHost

API, PAGE = "program:secret one", "person:secret two"
ROUTES = ("/lokr/v1/adapters", "/lokr/v1/report?name=ink")
# (--api-auth, --gradio-auth) in force -> whether a program, a person who is logged in, and a stranger get in.
MODES = {
    "both": ((API, True), (True, True, False)),
    "api": ((API, False), (True, None, False)),
    "page": (("", True), (False, True, False)),
    "none": (("", False), (True, None, True)),
}


@pytest.mark.parametrize("find", [find_a1111, find_forge, find_forge_neo, find_reforge])
def test_whom_the_guard_lets_in_with_the_hosts_own_gradio(find: Callable[[], A1111 | None]):
    host = find()
    if host is None:
        pytest.skip(f"NOTHING FOUND BY {find.__name__}: our login is not tested with its Gradio")
    command = [host.python, Path(__file__).with_name("in_gradio.py"), API, PAGE, str(free_port())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    for mode, found in json.loads(done.stdout.splitlines()[-1]).items():
        (api, page), (program, person, stranger) = MODES[mode]
        let_in = {who: status == 200 for who, (status, _) in found.items()}
        assert let_in.pop("program") == program
        assert let_in.pop("person") == (stranger if person is None else person)
        assert let_in.pop("panel") == (not page)  # where the page has a login, its panel sends the cookie
        assert set(let_in.values()) == {stranger}  # whoever guesses, too
        assert found["stranger"][1] == bool(api), "programs are asked for their name, as by /sdapi"
        assert not found["other panel"][1], "a browser would cover the page by a dialog"


@pytest.fixture(scope="module")
def guarded(small_host: SmallHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    """A server that asks programs and persons for a login; the probe can switch either off."""
    base = tmp_path_factory.mktemp("guarded")
    save(lokr(small_host.layers), base / "models/LoKr/ink.safetensors")
    with small_host.guarded(base, API, PAGE) as server:
        yield server


@pytest.fixture(params=MODES)
def mode(guarded: WebServer, request: pytest.FixtureRequest) -> Iterator[str]:
    (api, page), _ = MODES[request.param]
    guarded.get("/probe/logins", api=api, page=str(page))
    yield request.param
    guarded.get("/probe/logins", api=API, page="True")


def status(server: WebServer, path: str, headers: dict | None = None) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(server.url + path, headers=headers or {})) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def basic(login: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}


def logged_in(server: WebServer) -> dict[str, str]:
    """The cookie that the page's login gives a person."""
    user, password = PAGE.split(":")
    data = urllib.parse.urlencode({"username": user, "password": password}).encode()
    with urllib.request.urlopen(server.url + "/login", data) as answer:
        cookies = [cookie.partition(";")[0] for cookie in answer.headers.get_all("Set-Cookie")]
    return {"Cookie": "; ".join(cookies)}


def test_a_program_a_person_and_a_stranger(guarded: WebServer, mode: str):
    program, person, stranger = MODES[mode][1]
    for path in ROUTES:
        answers = {True: {200, 503}, False: {401}}  # 503: no model is loaded yet
        assert status(guarded, path) in answers[stranger]
        assert status(guarded, path, basic(API)) in answers[program]
        assert status(guarded, path, basic("program:guess")) in answers[stranger]
        assert status(guarded, path, {"X-LoKr-Page": "guess"}) in answers[stranger]
        if person is not None:
            assert status(guarded, path, logged_in(guarded)) in answers[person]


def test_the_hosts_own_routes_say_the_same(guarded: WebServer):
    assert status(guarded, "/sdapi/v1/options") == status(guarded, ROUTES[0]) == 401
    assert status(guarded, "/sdapi/v1/options", basic(API)) == status(guarded, ROUTES[0], basic(API)) == 200


def test_the_panel_and_the_tab_of_the_page(browser, guarded: WebServer, mode: str):
    page = browser.new_page(viewport={"width": 1400, "height": 1100})
    page.route("**/*", lambda route: route.continue_() if guarded.url in route.request.url else route.abort())
    asked: list[int] = []
    page.on("response", lambda answer: asked.append(answer.status) if "/lokr/v1/report" in answer.url else None)
    page.goto(guarded.url, wait_until="domcontentloaded")
    if MODES[mode][0][1]:
        user, password = PAGE.split(":")
        page.locator("input").nth(0).fill(user)
        page.locator("input[type=password]").fill(password)
        page.get_by_role("button", name="Login").click()
    page.wait_for_selector('#txt2img_lokr_cards .card[data-name="ink"]', state="attached", timeout=60_000)
    page.fill("#txt2img_prompt textarea", "<lokr:ink:0.5>")
    page.wait_for_function("() => document.querySelector('#txt2img_lokr_panel .lokr-status')?.textContent")
    page.close()
    assert asked and set(asked) <= {200, 503}
