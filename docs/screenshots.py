"""The pictures of the documents and the example workflows, made in the real front end: ``python docs/screenshots.py``.

Needs a ComfyUI (COMFYUI_PATH, COMFYUI_PYTHON), Debian's chromium, and ``pip install playwright``. The model is small
and random, so it paints noise; the graph is what matters.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageOps
from playwright.sync_api import sync_playwright
from safetensors.torch import save_file

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from docs.screenshots_show import Scene, show  # noqa: E402
from tests.browser.conftest import METADATA  # noqa: E402
from tests.browser.front import ARGUMENTS, Front  # noqa: E402
from tests.comfyui.test_nodes import blocks, schedule, stack  # noqa: E402
from tests.comfyui.test_server import LAYERS, loader, lokr, workflow  # noqa: E402
from tests.comfyui.test_tools import grid  # noqa: E402
from tests.hosts import find_comfyui  # noqa: E402

IMAGES, HELP = PROJECT / "docs" / "images", PROJECT / "web" / "docs"

# Nodes of test_server's workflow: id -> place.
USUAL = {1: (0, 0), 3: (880, 0), 4: (880, 190), 5: (880, 380), 6: (1230, 0), 7: (1560, 0), 8: (1560, 140)}
CHECKPOINT = {"1": workflow()["1"]}


def _preview(source: str, output: int) -> dict:
    return {"class_type": "PreviewAny", "inputs": {"source": [source, output]}}


def _with(prompt: dict, node: str, more: dict | None = None, **wires) -> dict:
    prompt[node]["inputs"] |= wires
    return {**prompt, **(more or {})}


def _grid() -> dict:
    prompt = grid(clip=["1", 1], x_strengths="0, 0.5, 1", y_lokr="other.safetensors", y_strengths="0, 0.7")
    prompt["3"]["inputs"]["clip"] = prompt["4"]["inputs"]["clip"] = ["20", 1]
    return prompt


def _prompt_loader() -> dict:
    text = "a lighthouse at dusk <lokr:style:0.8>"
    prompt = workflow({"class_type": "LoKrPromptLoader", "inputs": {"prompt": text, "mode": "auto"}})
    prompt["3"]["inputs"]["text"] = ["20", 2]
    return prompt


def scenes() -> list[Scene]:
    model_only = {"class_type": "LoKrLoaderModelOnly", "inputs": {"lokr_name": "style.safetensors"}}
    model_only["inputs"] |= {"strength_model": 0.8, "mode": "auto"}
    inspect = {"class_type": "LoKrInspect", "inputs": {"lokr_name": "style.safetensors", "model": ["1", 0]}}
    inspect["inputs"]["clip"] = ["1", 1]
    save = {
        "class_type": "LoKrSave",
        "inputs": {"model": ["21", 0], "clip": ["21", 1], "filename_prefix": "loras/both"},
    }
    both = workflow(loader("style.safetensors", 0.6, mode="auto"), loader("other.safetensors", 0.4, mode="auto"))
    both = {key: node for key, node in both.items() if key in ("1", "20", "21")}
    rows = stack((True, "style.safetensors", 0.8), (True, "other.safetensors", 0.5), mode="auto")
    usual = {**USUAL, 20: (400, 0), 120: (0, 400)}
    return [
        Scene(
            workflow(loader("style.safetensors", 0.8, mode="auto")),
            usual,
            {IMAGES / "loader.png": [1, 3, 4, 5, 6, 7, 8, 20, 120], HELP / "LoKrLoader.png": [20]},
            "LoKr - load an adapter",
            {20: (400, 330), 120: (800, 260), 8: (320, 330)},
        ),
        Scene(
            workflow(model_only),
            usual,
            {HELP / "LoKrLoaderModelOnly.png": [20]},
            None,
            {20: (400, 300)},
        ),
        Scene(
            _with(workflow(rows), "20", blocks("MID:0.5, OUT:1"), blocks=["50", 0]),
            {**usual, 50: (0, 240)},
            {HELP / "LoKrStack.png": [20], HELP / "LoKrBlockStrengths.png": [50, 20]},
            "LoKr - several adapters with block strengths",
            {20: (430, 320), 50: (360, 300)},
        ),
        Scene(
            _with(
                workflow(loader("style.safetensors", 1.0, mode="auto")),
                "20",
                schedule(keyframes="0:0, 0.3:1, 1:0.2"),
                schedule=["51", 0],
            ),
            {**usual, 51: (0, 240), 120: (400, 400)},
            {HELP / "LoKrSchedule.png": [51, 20]},
            "LoKr - a strength that changes while sampling",
            {20: (400, 330), 51: (360, 640), 120: (430, 260)},
        ),
        Scene(
            _prompt_loader(),
            usual,
            {HELP / "LoKrPromptLoader.png": [20]},
            "LoKr - adapters named in the prompt",
            {20: (430, 360)},
        ),
        Scene(
            _grid(),
            {**usual, 30: (1560, 480), 31: (1960, 480)},
            {HELP / "LoKrStrengthGrid.png": [20, 30]},
            "LoKr - compare strengths in a grid",
            {20: (400, 330), 30: (360, 330)},
        ),
        Scene(
            {**CHECKPOINT, "20": inspect, "120": _preview("20", 2)},
            {1: (0, 0), 20: (400, 0), 120: (1160, 0)},
            {HELP / "LoKrInspect.png": [20]},
            "LoKr - see what is in a file",
            {20: (720, 440)},
        ),
        Scene(
            {**both, "40": save},
            {1: (0, 0), 20: (400, 0), 21: (860, 0), 40: (1320, 0)},
            {HELP / "LoKrSave.png": [21, 40]},
            "LoKr - merge adapters into one file",
            {20: (400, 330), 21: (400, 330), 40: (420, 320)},
        ),
        *_writers(),
        _training(),
    ]


def _writers() -> list[Scene]:
    """LoKr Convert, LoKr Extract and LoKr Resize, each with its template."""
    parts = {"model": ["1", 0], "clip": ["1", 1]}
    tuned = loader("style.safetensors", 0.8, mode="merge")
    tuned["inputs"] |= parts
    convert = {"lokr_name": "style.safetensors", "to": "lora", "names": "diffusers", "rank": 0, "energy": 0.99}
    extract = {"base": ["1", 0], "tuned": ["20", 0], "factor": "8", "second_factor": "whole", "rank": 0, "energy": 0.99}
    resize = {"lokr_name": "style.safetensors", "rank": 2, "energy": 0.99}
    places, size = {1: (0, 0), 20: (400, 0), 40: (860, 0)}, {40: (620, 760)}
    return [
        Scene(
            {**CHECKPOINT, "40": _node("LoKrConvert", "converted", **convert, **parts)},
            places,
            {HELP / "LoKrConvert.png": [40]},
            "LoKr - convert to LoRA",
            size,
        ),
        Scene(
            {**CHECKPOINT, "20": tuned, "40": _node("LoKrExtract", "extracted", **extract)},
            places,
            {HELP / "LoKrExtract.png": [20, 40]},
            "LoKr - extract from a fine-tuned model",
            {20: (400, 330), **size},
        ),
        Scene(
            {"40": _node("LoKrResize", "resized", **resize)},
            places,
            {HELP / "LoKrResize.png": [40]},
            "LoKr - make a file smaller",
            size,
        ),
    ]


def _training() -> Scene:
    """LoKr Train behind core's own nodes for a folder of pictures with captions."""
    inputs = {"file_name": "sunset", "steps": 24, "learning_rate": 3e-3, "sample_every": 8, "existing": "start over"}
    inputs |= {"batch_size": 1, "factor": 8, "rank": 16, "seed": 1, "precision": "fp32"}
    wires = {"model": ["1", 0], "latents": ["3", 0], "positive": ["3", 1], "vae": ["1", 2]}
    dataset = {"images": ["2", 0], "texts": ["2", 1], "vae": ["1", 2], "clip": ["1", 1]}
    prompt = {
        **CHECKPOINT,
        "2": {"class_type": "LoadImageTextDataSetFromFolder", "inputs": {"folder": "pictures"}},
        "3": {"class_type": "MakeTrainingDataset", "inputs": dataset},
        "20": {"class_type": "LoKrTrain", "inputs": {**inputs, **wires}},
        "41": {"class_type": "PreviewImage", "inputs": {"images": ["20", 1]}},
    }
    places = {1: (0, 0), 2: (0, 200), 3: (0, 360), 20: (400, 0), 41: (860, 0)}
    return Scene(prompt, places, {HELP / "LoKrTrain.png": [20]}, "LoKr - train on your pictures", {41: (420, 320)})


def pictures(folder: Path) -> None:
    """Four pictures with captions to train on: colours that run into one another."""
    folder.mkdir(parents=True)
    for number in range(4):
        picture = Image.radial_gradient("L").rotate(90 * number).resize((64, 64))
        ImageOps.colorize(picture, "navy", "orange").save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a sunset", encoding="utf-8")


def _node(name: str, prefix: str, **inputs) -> dict:
    return {"class_type": name, "inputs": {**inputs, "filename_prefix": f"loras/{prefix}"}}


def main() -> None:
    host = find_comfyui()
    assert host is not None, "no ComfyUI: set COMFYUI_PATH and COMFYUI_PYTHON"
    wanted = set(sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        checkpoint = base / "models/checkpoints/sd15-float16.safetensors"
        checkpoint.parent.mkdir(parents=True)
        host.run(base, {"do": "make_sd15", "path": str(checkpoint), "dtype": "float16"})
        save_file(lokr(LAYERS, 0), str(base / "models/loras/style.safetensors"), metadata=METADATA)
        save_file(lokr(LAYERS, 1), str(base / "models/loras/other.safetensors"))
        pictures(base / "input/pictures")
        with host.serve(base) as server, sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=ARGUMENTS
            )
            page = browser.new_page(viewport={"width": 2500, "height": 1100})
            front = Front(page, server.url).open()
            for scene in scenes():
                names = {path.name for path in scene.pictures}
                if not wanted or wanted & {*names, scene.example}:
                    show(front, scene)
                    print(*sorted(names), flush=True)
            browser.close()


if __name__ == "__main__":
    main()
