"""The README's walk, in a fresh clone: from the clone to a second picture with another strength, clicks counted."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
from dataclasses import dataclass

import numpy as np
import pytest

from tests.browser.front import Front, opened
from tests.browser.test_journey import PLACES, picture
from tests.comfyui.test_server import workflow
from tests.hosts import PROJECT, base_directory

CHECKPOINT = "sd15-float16.safetensors"


@dataclass
class Hand:
    """What a person does with mouse and keys, counted: clicks, drags, words and keys."""

    front: Front
    acts: int = 0

    def press(self, target) -> None:
        self.acts += 1
        target.click()

    def add(self, place: tuple[float, float], words: str, title: str) -> int:
        """Double click, words, Enter and a click that lays the node down; its id."""
        self.acts += 4
        count = self.front.page.evaluate("app.graph.nodes.length")
        self.front.search(place, words, title)
        self.front.page.keyboard.press("Enter")
        self.front.page.wait_for_function("count => app.graph.nodes.length > count", arg=count)
        self.front.still()
        self.front.page.mouse.move(place[0] + 5, place[1] + 5)
        self.front.page.mouse.click(*place)  # the new node hangs on the mouse until then
        self.front.still()
        return self.front.page.evaluate("Math.max(...app.graph.nodes.map(node => node.id))")

    def type(self, text: str, key: str = "Enter") -> None:
        self.acts += 2
        self.front.page.keyboard.type(text, delay=30)
        self.front.page.wait_for_timeout(600)  # as long as a person looks at what was found
        self.front.page.keyboard.press(key)
        self.front.still()

    def connect(self, *link) -> None:
        self.acts += 1
        self.front.connect(*link)

    def run(self) -> str:
        self.acts += 1
        return self.front.run()


@pytest.fixture
def installed(comfyui, front_server, tmp_path):
    """What the README's steps 1 and 2 leave: a clone in custom_nodes, and an adapter for the user's checkpoint."""
    base = tmp_path / "comfyui"
    clone = base / "custom_nodes" / "comfyui-lokr"
    clone.parent.mkdir(parents=True)
    if subprocess.run(["git", "clone", "-q", "--no-hardlinks", PROJECT, clone], capture_output=True).returncode:
        pytest.skip("NO GIT CLONE HERE: the README's walk begins with one")
    checkpoint = base_directory(base) / "models/checkpoints" / CHECKPOINT
    checkpoint.hardlink_to(front_server.base / "models/checkpoints" / CHECKPOINT)
    (command,) = re.findall(r"`python (examples/lokr_to_try\.py [^`]+)`", (PROJECT / "README.md").read_text("utf-8"))
    words = [str(checkpoint) if word == "CHECKPOINT" else word for word in shlex.split(command)]
    done = subprocess.run([comfyui.python, *words], cwd=clone, env=comfyui.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (base / "models/loras/try.safetensors").is_file()
    return base


def test_the_readmes_walk_from_a_clone_to_a_second_picture(comfyui, browser, installed):
    with comfyui.serve(installed) as server, opened(browser, server.url) as front:
        front.load(workflow(), PLACES)  # the user's own, of before
        front.page.evaluate(
            "app.graph.getNodeById(6).widgets.find(w => w.name === 'control_after_generate').value = 'fixed'"
        )
        hand, begun = Hand(front), time.monotonic()
        loader = hand.add((420, 560), "lokr", "LoKr Loader")
        assert front.page.evaluate("id => app.graph.getNodeById(id).type", loader) == "LoKrLoader"
        assert front.badge(loader)[1] == "choose a file"
        hand.press(front.face(loader, "badge"))
        front.dialog("files").locator("[data-name='try.safetensors']").wait_for()
        hand.type("try")
        front.dialog("files").wait_for(state="detached")
        assert front.values(loader)["lokr_name"] == "try.safetensors"
        for link in ((1, "MODEL", loader, "model"), (1, "CLIP", loader, "clip"), (loader, "model", 6, "model")):
            hand.connect(*link)
        for text in (3, 4):
            hand.connect(loader, "clip", text, "clip")
        assert hand.run() == "success"
        level, text = front.badge(loader)
        assert level == "ok" and "applied" in text
        first = picture(server)
        hand.press(front.face(loader, "strength_model"))
        hand.type("0.4")
        assert front.values(loader)["strength_model"] == 0.4
        assert hand.run() == "success"
        assert not np.array_equal(first, picture(server))
        assert not front.errors
    print(json.dumps({"clicks, drags, words and keys": hand.acts, "seconds": round(time.monotonic() - begun, 1)}))
