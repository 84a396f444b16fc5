"""One picture of the documents: a workflow in the real front end, run, its screenshots and its example written."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageOps

from tests.browser.front import Front

WORKFLOWS = Path(__file__).resolve().parent.parent / "example_workflows"
TEXTS = {3: (310, 140), 4: (310, 140)}
CANVAS = (160, 130)  # clear of the page's own bars
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
