"""LoKr Train in a real ComfyUI server: it learns, stops, goes on, tells what is wrong, and leaves the model alone."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lokr_core import load_adapter
from tests.comfyui.test_nodes import error_of
from tests.comfyui.test_tools import outputs_of

FLUX, SD15, QUANTISED = "flux-float32.safetensors", "sd15-float16.safetensors", "flux-float8.safetensors"
FLUX16 = "flux-bfloat16.safetensors"
PLAIN = dict(steps=40, learning_rate=1e-2, batch_size=1, factor=4, rank=16, seed=1, sample_every=0, full_matrix=True)
PLAIN |= dict(existing="resume", precision="fp32", gradient_checkpointing=False)


@pytest.fixture(scope="module")
def server(comfyui, tmp_path_factory):
    base = tmp_path_factory.mktemp("train")
    (base / "custom_nodes").mkdir()
    (base / "custom_nodes/train_nodes.py").symlink_to(Path(__file__).with_name("train_nodes.py"))
    models = base / "models"
    for folder in ("checkpoints", "diffusion_models"):
        (models / folder).mkdir(parents=True)
    flux, flux16, quantised = (str(models / "diffusion_models" / name) for name in (FLUX, FLUX16, QUANTISED))
    comfyui.run(
        base,
        {"do": "make_flux", "path": flux, "dtype": "float32"},
        {"do": "make_flux", "path": flux16, "dtype": "bfloat16"},
        {"do": "make_quantised", "model": flux, "path": quantised},
        {"do": "make_sd15", "path": str(models / "checkpoints" / SD15), "dtype": "float16"},
    )
    with comfyui.serve(base) as running:
        yield running


def workflow(model: str = FLUX, sizes: str = "8x8", tokens: str = "8", before: dict | None = None, **inputs) -> dict:
    """model, pictures and prompts -> LoKr Train; ``before``: a node between the model and it."""
    if model == SD15:
        loader = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": model}}
    else:
        loader = {"class_type": "UNETLoader", "inputs": {"unet_name": model, "weight_dtype": "default"}}
    pictures = {"channels": 4 if model == SD15 else 16, "sizes": sizes}
    inputs = {**PLAIN, "model": ["1", 0], "latents": ["2", 0], "positive": ["3", 0], **inputs}
    prompt = {
        "1": loader,
        "2": {"class_type": "TestPictures", "inputs": pictures},
        "3": {"class_type": "TestPrompts", "inputs": {"tokens": tokens}},
        "40": {"class_type": "LoKrTrain", "inputs": inputs},
    }
    if before:
        prompt["20"] = {**before, "inputs": {**before["inputs"], "model": ["1", 0]}}
        inputs["model"] = ["20", 0]
    return prompt


def trained(server, *arguments: str, **inputs) -> dict:
    """What the node shows at its end."""
    (shown,) = outputs_of(server, workflow(*arguments, **inputs))["40"]["lokr_train"]
    return shown


def held_out_loss(server, model: str, adapter: str | None) -> float:
    """The mean loss of eight pictures with noise that no training has seen, with the adapter merged."""
    inputs = {"lokr_name": adapter, "strength_model": 1.0, "mode": "merge"}
    before = {"class_type": "LoKrLoaderModelOnly", "inputs": inputs} if adapter else None
    once = dict(steps=1, accumulation=8, seed=99, learning_rate=1e-8, existing="start over", file_name="measured")
    ((_, loss),) = trained(server, model, before=before, **once)["curve"]
    return loss


def digest(server, model: str) -> dict:
    prompt = {k: v for k, v in workflow(model).items() if k == "1"}
    prompt["50"] = {"class_type": "TestDigest", "inputs": {"model": ["1", 0]}}
    return outputs_of(server, prompt)["50"]


@pytest.fixture(scope="module", autouse=True)
def base(server) -> list:
    """The digest of the model as it was loaded, before anything was trained or merged."""
    return digest(server, FLUX)["sums"]


def tensors(server, name: str) -> dict[str, torch.Tensor]:
    return load_file(server.base / "models/loras" / f"{name}.safetensors")


@pytest.mark.parametrize(
    ("model", "steps", "precision"),
    [(FLUX, 60, "fp32"), (FLUX16, 60, "bf16"), (QUANTISED, 60, "fp32"), (SD15, 24, "fp32"), (SD15, 24, "bf16")],
)
def test_it_learns_a_picture_and_the_model_stays_as_it_was(server, model, steps, precision):
    before = digest(server, model)["sums"]
    name = f"learned-{model.partition('.')[0]}-{precision}"
    shown = trained(server, model, file_name=name, steps=steps, precision=precision)
    assert shown["file"] == f"{name}.safetensors"
    assert (shown["step"], shown["curve"][-1][0]) == (steps, steps)
    with_it, without = (held_out_loss(server, model, file) for file in (shown["file"], None))
    assert with_it < (0.85 if model == SD15 else 0.5) * without
    after = digest(server, model)
    assert after["sums"] == before
    assert shown["file"] in after["files"][0]


def test_the_nodes_model_is_the_files_at_strength_1(server):
    sampler = {"seed": 1, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    wires = {"positive": ["3", 0], "negative": ["3", 0], "latent_image": ["2", 0]}
    loader = {"lokr_name": "live.safetensors", "strength_model": 1.0, "mode": "merge", "model": ["1", 0]}
    prompt = workflow(file_name="live", steps=20)
    found = {}
    outputs_of(server, prompt)
    prompt["41"] = {"class_type": "LoKrLoaderModelOnly", "inputs": loader}
    for number, source in ((60, "40"), (62, "41"), (64, "1")):
        prompt[str(number)] = {"class_type": "KSampler", "inputs": {**sampler, **wires, "model": [source, 0]}}
        save = {"samples": [str(number), 0], "filename_prefix": f"latent{source}"}
        prompt[str(number + 1)] = {"class_type": "SaveLatent", "inputs": save}
    outputs = outputs_of(server, prompt)
    for number, source in ((61, "live"), (63, "merged"), (65, "base")):
        (saved,) = outputs[str(number)]["latents"]
        found[source] = load_file(server.base / "output" / saved["filename"])["latent_tensor"]
    assert torch.allclose(found["live"], found["merged"], atol=1e-4)
    assert not torch.allclose(found["live"], found["base"], atol=1e-2)


def test_an_interrupted_training_goes_on_and_ends_as_an_unbroken_one(server, base):
    options = dict(steps=400, rank_dropout=0.1, accumulation=2, warm_up=10, schedule="cosine", sample_every=3)
    started = server.queue(workflow(file_name="broken", save_every=5, sample_steps=1, **options))
    state = server.base / "models/loras/broken.training"
    for _ in range(600):
        if state.exists():
            break
        time.sleep(0.1)
    urllib.request.urlopen(urllib.request.Request(f"{server.url}/interrupt", data=b"{}"), timeout=30)
    while not server.get(f"/history/{started['prompt_id']}"):
        time.sleep(0.1)
    (ended,) = server.get(f"/history/{started['prompt_id']}").values()
    assert "execution_interrupted" in [kind for kind, _ in ended["status"]["messages"]]
    assert digest(server, FLUX)["sums"] == base
    held = int(load_adapter(server.base / "models/loras/broken.safetensors").metadata["ss_steps"])
    assert 5 <= held < 400
    until = {**options, "steps": held + 6, "schedule": "constant"}
    shown = trained(server, file_name="broken", **until)
    assert f"resumed after step {held}" in shown["text"]
    assert shown["step"] == held + 6


def test_steps_in_parts_are_the_steps_in_one(server):
    options = dict(rank_dropout=0.2, accumulation=2, warm_up=5, dora=True, sizes="8x8, 8x8, 8x16", tokens="8, 8, 16")
    options |= dict(batch_size=2)
    whole = trained(server, file_name="whole", steps=8, sample_every=0, **options)
    trained(server, file_name="parts", steps=3, sample_every=1, sample_steps=1, **options)
    parts = trained(server, file_name="parts", steps=8, sample_every=3, sample_steps=1, **options)
    assert parts["curve"] == whole["curve"]
    assert parts["sample"].startswith("data:image/jpeg")
    expected, found = tensors(server, "whole"), tensors(server, "parts")
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


def test_checkpointing_saves_memory_and_changes_nothing(server):
    plain, less = (
        trained(server, file_name=f"checkpointing{on}", steps=6, gradient_checkpointing=on) for on in (False, True)
    )
    assert less["curve"] == plain["curve"]


def test_a_checkpoint_of_other_options_is_told_and_can_be_replaced(server):
    trained(server, file_name="options", steps=2)
    message = error_of(server, workflow(file_name="options", steps=4, factor=8))["exception_message"]
    assert "cannot be resumed" in message
    assert "expected: {'factor': 4}" in message and "found: {'factor': 8}" in message
    message = error_of(server, workflow(SD15, file_name="options", steps=4))["exception_message"]
    assert "cannot be resumed" in message and SD15 in message
    shown = trained(server, file_name="options", steps=2, factor=8, existing="start over")
    assert shown["step"] == 2


def test_blocks_choose_the_layers(server):
    blocks = {"class_type": "LoKrBlockStrengths", "inputs": {"preset": "none", "strengths": "ALL:0, SINGLE1:1"}}
    prompt = {**workflow(file_name="blocks", steps=1, blocks=["50", 0]), "50": blocks}
    outputs_of(server, prompt)
    modules = load_adapter(server.base / "models/loras/blocks.safetensors")
    assert set(modules) == {f"diffusion_model.single_blocks.1.{n}" for n in ("linear1", "linear2", "modulation.lin")}
    prompt["50"]["inputs"]["strengths"] = "ALL:0"
    assert "leave nothing to train" in error_of(server, prompt)["exception_message"]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (dict(sizes="8x8, 8x8, 8x8", tokens="8, 8"), ["numbers of pictures and conditionings differ", "3", "2"]),
        (dict(sizes=""), ["no pictures to train on"]),
        (dict(file_name="../away"), ["not a name of a file in the loras folder"]),
        (dict(file_name="theirs"), ["Another program wrote a file of this name"]),
        (dict(optimizer="prodigy"), ["prodigyopt", "pip install"]),
    ],
)
def test_what_cannot_be_trained_is_told_on_the_node(server, inputs, said):
    save_file({"lora_unet_x.lokr_w1": torch.ones(2, 2), "lora_unet_x.lokr_w2": torch.ones(2, 2)}, str(_theirs(server)))
    error = error_of(server, workflow(**{"file_name": "no", **inputs}))
    assert error["node_type"] == "LoKrTrain"
    assert all(text in error["exception_message"] for text in said), error["exception_message"]
    assert load_file(_theirs(server)).keys() == {"lora_unet_x.lokr_w1", "lora_unet_x.lokr_w2"}
    assert not list((server.base / "models/loras").glob("no.*"))


def _theirs(server) -> Path:
    return server.base / "models/loras/theirs.safetensors"


def test_latents_of_another_model_or_of_nan_are_told(server):
    prompt = workflow(file_name="no")
    prompt["2"]["inputs"]["channels"] = 4
    assert "of another model" in error_of(server, prompt)["exception_message"]
    prompt["2"]["inputs"].update(channels=16, nan=True)
    assert "holds NaN" in error_of(server, prompt)["exception_message"]


def test_live_adapters_below_are_told(server):
    trained(server, file_name="below", steps=1)
    live = {"lokr_name": "below.safetensors", "strength_model": 1.0, "mode": "live"}
    prompt = workflow(before={"class_type": "LoKrLoaderModelOnly", "inputs": live}, file_name="no")
    assert "are live" in error_of(server, prompt)["exception_message"]


def test_memory_that_runs_out_is_told_and_the_steps_so_far_are_kept(server, base):
    failing = {"class_type": "TestFailing", "inputs": {"call": 4, "fails": "memory"}}
    message = error_of(server, workflow(before=failing, file_name="memory", steps=6))["exception_message"]
    assert "Out of memory after step 3 of 6" in message
    assert "gradient_checkpointing" in message
    assert digest(server, FLUX)["sums"] == base
    shown = trained(server, file_name="memory", steps=6)
    assert "resumed after step 3" in shown["text"]
    assert shown["curve"] == trained(server, file_name="memory-whole", steps=6)["curve"]


def test_a_loss_of_nan_is_told_and_the_last_checkpoint_is_kept(server, base):
    failing = {"class_type": "TestFailing", "inputs": {"call": 6, "fails": "nan"}}
    message = error_of(server, workflow(before=failing, file_name="nan", steps=9, save_every=2))["exception_message"]
    assert "loss of step 6 is not a finite number" in message
    assert digest(server, FLUX)["sums"] == base
    shown = trained(server, file_name="nan", steps=9)
    assert "resumed after step 4" in shown["text"]
    assert all(torch.isfinite(tensor).all() for tensor in tensors(server, "nan").values())


def test_the_loaders_offer_the_file_at_once(server):
    trained(server, file_name="people/offered", steps=1)
    offered = json.dumps(server.get("/object_info/LoKrLoader"))
    assert "people/offered.safetensors" in offered
    assert ".training" not in offered
