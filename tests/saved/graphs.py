"""What the script that wrote ComfyUI's saved files and the tests that read them have in common.

What is computed in here may not change, for the files hold what was computed with it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

CHECKPOINT = "sd15-float16.safetensors"
CELL = 64  # pixels of a picture's side
SMALL = {
    "CheckpointLoaderSimple": {"ckpt_name": CHECKPOINT},
    "EmptyLatentImage": {"width": CELL, "height": CELL},
    "KSampler": {"steps": 2},
}
"""So that an example of full size runs on the small checkpoint, at a size that a test can wait for."""

# Of what /object_info says of an input: what a saved workflow, its prompt or its widgets depend on.
_KEPT = ("default", "min", "max", "step", "multiline", "display", "dynamicPrompts", "multiselect", "advanced")


def structure(info: dict) -> dict:
    """A node's entry in /object_info without its texts for people."""
    groups = {group: info["input_order"][group] for group in ("required", "optional") if group in info["input"]}
    inputs = {group: [_input(name, info["input"][group][name]) for name in names] for group, names in groups.items()}
    kept = ("output", "output_name", "output_is_list", "is_input_list", "output_node")
    return {**inputs, **{key: info[key] for key in kept}}


def _input(name: str, said: list) -> list:
    """[name, type, what is kept of its options]"""
    kind, options = said[0], said[1] if len(said) > 1 else {}
    kept = {key: options[key] for key in _KEPT if options.get(key) is not None}
    if "options" in options:
        kept["options"] = [_option(option) for option in options["options"]]
    return [name, kind, kept]


def _option(option: object) -> object:
    """One of a combo's; with inputs of its own, where the combo is dynamic."""
    if not isinstance(option, dict):
        return option
    groups = (option["inputs"].get(group, {}) for group in ("required", "optional"))
    return [option["key"], *(_input(name, said) for group in groups for name, said in group.items())]


def small(prompt: dict) -> dict:
    """``prompt`` at a size for tests."""
    return {
        node: {**entry, "inputs": {**entry["inputs"], **SMALL.get(entry["class_type"], {})}}
        for node, entry in prompt.items()
    }


def outcome(server, prompt: dict) -> dict:
    """What a prompt gives on a server: by node, the reports of LoKr nodes, sizes of pictures and their colours."""
    history = server.run(small(prompt))
    assert history["status"]["status_str"] == "success", history["status"]["messages"][-1]
    found = {}
    for node, shown in sorted(history["outputs"].items()):
        kind, entry = prompt[node]["class_type"], {}
        for report in shown.get("lokr_report", ()):
            said = [report[key] for key in ("file", "applied", "found", "total", "mode", "level")]
            entry.setdefault("reports", []).append(said)
        if kind == "SaveImage":
            pictures = [server.base / "output" / each["subfolder"] / each["filename"] for each in shown["images"]]
            entry = {"pictures": [colours(path) for path in pictures]}
        if kind == "LoKrSave":
            entry = {"file": shown["text"][0].partition(":")[0]}
        found |= {f"{kind} {node}": entry} if entry else {}
    return found


def colours(path: Path) -> list:
    """[width, height, colours of 12 x 12 fields from 0 to 255], without a grid's labels, whose font is the system's"""
    with Image.open(path) as picture:
        width, height = (size // CELL * CELL for size in picture.size)
        left, top = picture.width - width, picture.height - height
        cells = picture.convert("RGB").crop((left, top, left + width, top + height))
        return [width, height, list(cells.resize((12, 12), Image.Resampling.BOX).tobytes())]


def near(one: list, other: list) -> bool:
    """The same picture but for rounding."""
    if one[:2] != other[:2]:
        return False
    return bool((torch.tensor(one[2]) - torch.tensor(other[2])).abs().max() <= 3)
