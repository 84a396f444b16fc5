"""The example workflows: each runs in a real ComfyUI, over HTTP, at a size that a test can wait for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.comfyui.test_server import server  # noqa: F401  (a fixture)
from tests.hosts import PROJECT

EXAMPLES = sorted((PROJECT / "example_workflows").glob("*.json"))
CONTROLS = ("fixed", "increment", "decrement", "randomize")
"""What the page keeps beside a seed: what to do with it after a run."""

SMALL = {
    "CheckpointLoaderSimple": {"ckpt_name": "sd15-float16.safetensors"},
    "EmptyLatentImage": {"width": 64, "height": 64},
    "KSampler": {"steps": 1},
    "LoKrTrain": {"steps": 1, "sample_steps": 1},
}


def queued(graph: dict) -> dict:
    """A saved graph as the page queues it: node id -> class and inputs."""
    links = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
    prompt = {}
    for node in graph["nodes"]:
        values = list(node.get("widgets_values") or [])
        inputs = {}
        for slot in node["inputs"]:
            if slot.get("widget"):
                inputs[slot["name"]] = values.pop(0)
                if slot["name"] in ("seed", "noise_seed") and values and values[0] in CONTROLS:
                    values.pop(0)
            if slot.get("link") is not None:
                inputs[slot["name"]] = links[slot["link"]]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs | SMALL.get(node["type"], {})}
    return prompt


def test_there_are_enough_of_them():
    assert len(EXAMPLES) >= 5


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs(server, path: Path):  # noqa: F811
    folder = server.base / "input/pictures"
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (64, 64), "orange").save(folder / "1.png")
    prompt = queued(json.loads(path.read_text(encoding="utf-8")))
    history = server.run(prompt)
    assert history["status"]["status_str"] == "success", history["status"]["messages"][-1]
    for node, entry in prompt.items():
        if entry["class_type"] == "SaveImage":
            assert history["outputs"][node]["images"]
        for report in history["outputs"].get(node, {}).get("lokr_report", ()):
            assert (report["level"], report["applied"]) == ("ok", report["total"]), report


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_names_no_file_of_this_machine(path: Path):
    text = path.read_text(encoding="utf-8")
    assert "/tmp" not in text and "sd15-float16" not in text
