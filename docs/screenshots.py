"""The pictures of the documents and the example workflows, made in the real front end: ``python docs/screenshots.py``.

Needs a ComfyUI (COMFYUI_PATH, COMFYUI_PYTHON), Debian's chromium, and ``pip install playwright``. The model is small
and random, so it paints noise; the graph is what matters.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageOps
from playwright.sync_api import sync_playwright
from safetensors.torch import save_file

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from tests.browser.conftest import METADATA  # noqa: E402
from tests.browser.front import ARGUMENTS, Front  # noqa: E402
from tests.comfyui.test_nodes import blocks, schedule, stack  # noqa: E402
from tests.comfyui.test_server import LAYERS, loader, lokr, workflow  # noqa: E402
from tests.comfyui.test_tools import grid  # noqa: E402
from tests.hosts import find_comfyui  # noqa: E402

WORKFLOWS, IMAGES, HELP = PROJECT / "example_workflows", PROJECT / "docs" / "images", PROJECT / "web" / "docs"

# Nodes of test_server's workflow: id -> place.
USUAL = {1: (0, 0), 3: (880, 0), 4: (880, 190), 5: (880, 380), 6: (1230, 0), 7: (1560, 0), 8: (1560, 140)}
TEXTS = {3: (310, 140), 4: (310, 140)}
CANVAS = (160, 130)  # clear of the page's own bars
CHECKPOINT = {"1": workflow()["1"]}

# Names in the tests' workflows -> names that a user has.
FOR_A_PERSON = {"sd15-float16.safetensors": "v1-5-pruned-emaonly-fp16.safetensors", "test": "lokr"}


@dataclass(frozen=True)
class Scene:
    """A workflow, the places of its nodes, and its screenshots.

    pictures: file -> the nodes in it; example: name in example_workflows/, or None
    """

    prompt: dict
    places: dict[int, tuple[int, int]]
    pictures: dict[Path, list[int]]
    example: str | None = None
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)


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


def show(front: Front, scene: Scene) -> None:
    """Load a scene, run it, and write its screenshots and its example workflow."""
    front.load(scene.prompt, scene.places)
    sizes = {str(node): size for node, size in {**TEXTS, **scene.sizes}.items()}
    front.page.evaluate(
        """([sizes, offset]) => {
            for (const [id, size] of Object.entries(sizes)) app.graph.getNodeById(Number(id))?.setSize(size);
            app.canvas.ds.offset = offset;
            app.graph.setDirtyCanvas(true, true);
        }""",
        [sizes, CANVAS],
    )
    front.page.evaluate(
        """() => {
            window.lokrDone = false;
            app.api.addEventListener('execution_success', () => { window.lokrDone = true; }, {once: true});
            return app.queuePrompt(0, 1);
        }"""
    )
    front.page.wait_for_function("window.lokrDone", timeout=600_000)
    front.page.wait_for_timeout(2000)
    if scene.example:
        graph = front.page.evaluate("app.graph.serialize()")
        path = WORKFLOWS / f"{scene.example}.json"
        path.write_text(json.dumps(_for_a_person(graph), indent=1) + "\n", encoding="utf-8")
    for path, nodes in scene.pictures.items():
        front.page.screenshot(path=str(path), clip=_around(front, nodes))
    if scene.example:
        thumbnail(next(iter(scene.pictures)), WORKFLOWS / f"{scene.example}.jpg")


def thumbnail(picture: Path, out: Path) -> None:
    """The square picture that ComfyUI's template browser shows for the workflow beside it."""
    with Image.open(picture) as image:
        ImageOps.pad(image.convert("RGB"), (400, 400), color="#202020").save(out, quality=85)


def _for_a_person(graph: dict) -> dict:
    """The graph with a user's names and sizes instead of a test's."""
    for node in graph["nodes"]:
        values = node.get("widgets_values")
        if node["type"] == "EmptyLatentImage":
            values[:2] = [512, 512]
        elif node["type"] == "KSampler":
            values[:4] = [1, "fixed", 20, 7]
        elif node["type"] == "LoKrTrain":
            values[:3], values[7:9] = ["my_style", 500, 5e-4], [50, "resume"]
            node["widgets_values"] = ["bf16" if value == "fp32" else value for value in values]
        elif isinstance(values, list):
            node["widgets_values"] = [
                FOR_A_PERSON.get(value, value) if isinstance(value, str) else value for value in values
            ]
    return graph


def _around(front: Front, nodes: list[int], margin: int = 14) -> dict[str, float]:
    """The part of the screen that holds ``nodes``, their titles and badges."""
    left, top, right, bottom = front.page.evaluate(
        """ids => {
            const boxes = ids.map(id => app.graph.getNodeById(id)).filter(Boolean).map(node => node.getBounding());
            const {scale, offset} = app.canvas.ds;
            const box = app.canvas.canvas.getBoundingClientRect();
            const x = value => (value + offset[0]) * scale + box.left;
            const y = value => (value + offset[1]) * scale + box.top;
            return [Math.min(...boxes.map(b => x(b[0]))), Math.min(...boxes.map(b => y(b[1]))),
                Math.max(...boxes.map(b => x(b[0] + b[2]))), Math.max(...boxes.map(b => y(b[1] + b[3])))];
        }""",
        nodes,
    )
    left, top = max(0.0, left - margin), max(0.0, top - margin)
    return {"x": left, "y": top, "width": right + margin - left, "height": bottom + margin - top}


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
