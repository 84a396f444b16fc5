"""LoKr Train on the page: progress, curve and sample while it runs; stopping; errors; the file in open loaders."""

from __future__ import annotations

import pytest

PLACES = {1: (0, 0), 2: (0, 240), 3: (0, 460), 40: (440, 0), 20: (900, 0)}


def workflow(front, **inputs) -> dict:
    name = "vue" if front.vue else "litegraph"
    inputs = {"file_name": name, "steps": 4, "sample_every": 2, "sample_steps": 1, **inputs}
    inputs |= dict(learning_rate=1e-3, batch_size=1, factor=8, rank=4, seed=1, precision="fp32")
    inputs.setdefault("existing", "start over")
    wires = {"model": ["1", 0], "latents": ["2", 0], "positive": ["3", 0], "vae": ["1", 2]}
    text = {"text": "a lighthouse", "clip": ["1", 1]}
    loader = {"lokr_name": "style.safetensors", "strength_model": 1.0, "strength_clip": 1.0, "model": ["1", 0]}
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15-float16.safetensors"}},
        "2": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "3": {"class_type": "CLIPTextEncode", "inputs": text},
        "40": {"class_type": "LoKrTrain", "inputs": {**inputs, **wires}},
        "20": {"class_type": "LoKrLoader", "inputs": loader},
    }


@pytest.fixture
def training(front, loras):
    """Open the workflow with these inputs of the node."""

    def opened(**inputs) -> None:
        front.load(workflow(front, **inputs), PLACES)

    return opened


def status(front) -> str:
    return front.face(40, "train-status").inner_text()


def start(front) -> None:
    front.page.get_by_test_id("queue-button").click()


def wait_for(front, said: str, seconds: int = 120) -> str:
    """The node's text once it has ``said`` in it."""
    for _ in range(seconds * 5):
        if said in status(front):
            return status(front)
        front.page.wait_for_timeout(200)
    raise AssertionError(f"{said!r} is not in {status(front)!r}")


def offered(front) -> list[str]:
    return front.page.evaluate(
        "app.graph.getNodeById(20).widgets.find(widget => widget.name === 'lokr_name').options.values"
    )


def test_progress_curve_and_sample_are_on_the_node_and_the_file_in_open_loaders(front, training):
    training()
    assert status(front) == "not run yet"
    assert not front.face(40, "train-curve").is_visible()
    start(front)
    running = wait_for(front, "of 4")
    assert "loss" in running
    front.face(40, "train-sample").wait_for(state="visible")
    assert front.face(40, "train-curve").is_visible()
    assert front.face(40, "train-progress").get_attribute("max") == "4"
    assert front.face(40, "train-sample").evaluate("image => image.decode().then(() => image.naturalWidth)") == 64
    name = f"{'vue' if front.vue else 'litegraph'}.safetensors"
    ended = wait_for(front, name)
    assert "4 steps, loss" in ended
    points = front.face(40, "train-curve").locator("polyline").first.get_attribute("points")
    assert len(points.split()) == 4
    for _ in range(100):
        if name in offered(front):
            break
        front.page.wait_for_timeout(200)
    assert name in offered(front)


def test_a_stopped_training_says_so_and_the_next_run_goes_on(front, training):
    training(file_name=f"stopped-{front.vue}", steps=5000, sample_every=0)
    start(front)
    wait_for(front, " of 5000")
    front.page.evaluate("app.api.interrupt()")
    stopped = wait_for(front, "stopped after step")
    taken = int(stopped.partition("step ")[2].partition(";")[0])
    front.page.evaluate(
        """steps => {
            const node = app.graph.getNodeById(40);
            for (const [name, value] of [['steps', steps], ['existing', 'resume']])
                node.widgets.find(widget => widget.name === name).value = value;
        }""",
        taken + 1,
    )
    start(front)
    assert f"resumed after step {taken}" in wait_for(front, "resumed")


def test_an_error_is_on_the_node(front, training):
    training(file_name="../away")
    assert front.run() == "error"
    assert "not a name of a file" in wait_for(front, "not a name")
    assert front.face(40, "train-status").get_attribute("data-level") == "error"
    front.page.keyboard.press("Escape")
