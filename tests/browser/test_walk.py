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
from tests.browser.test_journey import picture
from tests.hosts import PROJECT, base_directory

CHECKPOINT = "sd15-float16.safetensors"


@dataclass
class Hand:
    """What a person does with mouse and keys, counted: clicks, drags, words and keys."""

    front: Front
    acts: int = 0

    def click(self, *place: float, twice: bool = False) -> None:
        self.acts += 1
        (self.front.page.mouse.dblclick if twice else self.front.page.mouse.click)(*place)
        self.front.still()

    def press(self, target) -> None:
        self.acts += 1
        target.click()

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
def installed(comfyui, tmp_path):
    """What the README's steps 1 and 2 leave: a clone in custom_nodes, and an adapter for the user's checkpoint."""
    base = tmp_path / "comfyui"
    clone = base / "custom_nodes" / "comfyui-lokr"
    clone.parent.mkdir(parents=True)
    if subprocess.run(["git", "clone", "-q", "--no-hardlinks", PROJECT, clone], capture_output=True).returncode:
        pytest.skip("NO GIT CLONE HERE: the README's walk begins with one")
    base_directory(base)
    checkpoint = base / "models/checkpoints" / CHECKPOINT
    comfyui.run(base, {"do": "make_sd15", "path": str(checkpoint), "dtype": "float16"})
    (command,) = re.findall(r"`python (examples/lokr_to_try\.py [^`]+)`", (PROJECT / "README.md").read_text("utf-8"))
    words = [str(checkpoint) if word == "CHECKPOINT" else word for word in shlex.split(command)]
    done = subprocess.run([comfyui.python, *words], cwd=clone, env=comfyui.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (base / "models/loras/try.safetensors").is_file()
    return base


def nodes(front: Front) -> dict[str, list[int]]:
    """Ids by kind of node, in order."""
    found: dict[str, list[int]] = {}
    for identity, kind in front.page.evaluate("app.graph.nodes.map(node => [node.id, node.type])"):
        found.setdefault(kind, []).append(identity)
    return found


def users_workflow(front: Front) -> dict[str, list[int]]:
    """ComfyUI's own first workflow, small enough for a CPU, with room for a node in its middle."""
    front.page.evaluate("() => app.loadGraphData()")
    front.page.wait_for_function("app.graph.nodes.length > 5")
    found = nodes(front)
    (sampler,), (latent,), (source,) = found["KSampler"], found["EmptyLatentImage"], found["CheckpointLoaderSimple"]
    values = {sampler: {"steps": 2, "control_after_generate": "fixed"}, latent: {"width": 64, "height": 64}}
    front.page.evaluate(
        """values => {
            for (const [id, named] of Object.entries(values))
                for (const widget of app.graph.getNodeById(id).widgets)
                    if (widget.name in named) widget.value = named[widget.name];
        }""",
        {**values, source: {"ckpt_name": CHECKPOINT}},
    )
    first, second = found["CLIPTextEncode"]
    front.arrange({source: (0, 0), first: (800, 0), second: (800, 230), latent: (800, 460), sampler: (1230, 0)}, 0.8)
    return found


def test_the_readmes_walk_from_a_clone_to_a_second_picture(comfyui, browser, installed):
    with comfyui.serve(installed) as server, opened(browser, server.url, (1700, 900)) as front:
        before = users_workflow(front)
        hand, begun = Hand(front), time.monotonic()
        hand.click(480, 620, twice=True)
        hand.type("lokr")
        hand.click(480, 520)  # the new node hangs on the mouse until then
        (loader,) = nodes(front)["LoKrLoader"]
        assert front.badge(loader)[1] == "choose a file"
        hand.press(front.face(loader, "badge"))
        front.dialog("files").locator("[data-name='try.safetensors']").wait_for()
        hand.type("try")
        assert front.values(loader)["lokr_name"] == "try.safetensors"
        (source,), (sampler,) = before["CheckpointLoaderSimple"], before["KSampler"]
        hand.connect(source, "MODEL", loader, "model")
        hand.connect(source, "CLIP", loader, "clip")
        hand.connect(loader, "model", sampler, "model")
        for text in before["CLIPTextEncode"]:
            hand.connect(loader, "clip", text, "clip")
        assert hand.run() == "success"
        level, text = front.badge(loader)
        assert level == "ok" and "applied" in text
        first = saved(server, before)
        hand.press(front.face(loader, "strength_model"))
        hand.type("0.4")
        assert hand.run() == "success"
        second = saved(server, before)
        assert not np.array_equal(first, second)
        assert not front.errors
    print(json.dumps({"acts": hand.acts, "seconds": round(time.monotonic() - begun, 1)}))


def saved(server, before: dict[str, list[int]]) -> np.ndarray:
    (node,) = before["SaveImage"]
    return picture(server, str(node))
