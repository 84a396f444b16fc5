"""A real ComfyUI server: workflows posted as its page posts them, with images coming out."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

LAYERS = {  # kohya name -> weight shape in the model of model_jobs.make_sd15
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": (320, 320),
    "lora_unet_mid_block_resnets_0_conv1": (640, 640, 3, 3),
    "lora_unet_up_blocks_1_resnets_0_time_emb_proj": (320, 1280),
    "lora_te_text_model_encoder_layers_3_mlp_fc2": (768, 3072),
}


def lokr(layers: dict, seed: int, factor: int = 8, rank: int = 4) -> dict[str, torch.Tensor]:
    """A LoKr of low rank for ``layers``, random."""
    torch.manual_seed(seed)
    tensors = {}
    for name, (out, columns, *kernel) in layers.items():
        tensors[f"{name}.lokr_w1"] = torch.randn(factor, factor)
        tensors[f"{name}.lokr_w2_a"] = torch.randn(out // factor, rank) * 0.1
        tensors[f"{name}.lokr_w2_b"] = torch.randn(rank, columns // factor * int(np.prod(kernel))) * 0.1
        tensors[f"{name}.alpha"] = torch.tensor(float(rank))
    return tensors


def lora(layers: dict) -> dict[str, torch.Tensor]:
    torch.manual_seed(9)
    tensors = {}
    for name, (out, columns) in layers.items():
        tensors[f"{name}.lora_up.weight"] = torch.randn(out, 4) * 0.2
        tensors[f"{name}.lora_down.weight"] = torch.randn(4, columns) * 0.2
        tensors[f"{name}.alpha"] = torch.tensor(4.0)
    return tensors


@pytest.fixture(scope="module")
def server(comfyui, tmp_path_factory):
    base = tmp_path_factory.mktemp("server")
    checkpoint = base / "models/checkpoints/sd15-float16.safetensors"
    checkpoint.parent.mkdir(parents=True)
    comfyui.run(base, {"do": "make_sd15", "path": str(checkpoint), "dtype": "float16"})
    loras = base / "models/loras"
    mixed = {name: shape for name, shape in LAYERS.items() if len(shape) == 2}
    other_model = {"lora_unet_double_blocks_0_img_attn_qkv": (768, 256)}
    save_file(lokr(LAYERS, 0), str(loras / "style.safetensors"))
    save_file(lokr(LAYERS, 1), str(loras / "other.safetensors"))
    save_file(lora(mixed), str(loras / "plain-lora.safetensors"))
    half = dict(list(lokr(LAYERS, 2).items())[:8])
    save_file(
        {**half, **lora({"lora_unet_mid_block_attentions_0_proj_in": (640, 640)})}, str(loras / "mixed.safetensors")
    )
    save_file(lokr({**LAYERS, **other_model}, 3), str(loras / "partial.safetensors"))
    save_file(lokr(other_model, 4), str(loras / "nothing.safetensors"))
    few_positions = {"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q": (640, 640)}
    strong = {key: tensor * 8 if key.endswith("lokr_w1") else tensor for key, tensor in lokr(few_positions, 5).items()}
    save_file(strong, str(loras / "few-positions.safetensors"))
    (loras / "broken.safetensors").write_bytes((loras / "style.safetensors").read_bytes()[:-100])
    (base / "custom_nodes/stop_node.py").symlink_to(Path(__file__).with_name("stop_node.py"))
    with comfyui.serve(base) as running:
        yield running


def workflow(*loaders: dict) -> dict:
    """checkpoint -> ``loaders`` in a chain -> two steps of KSampler -> VAE -> SaveImage; reports are shown."""
    prompt = {"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15-float16.safetensors"}}}
    model, clip = ["1", 0], ["1", 1]
    for number, loader in enumerate(loaders, 20):
        loader = copy.deepcopy(loader)
        loader["inputs"]["model"] = model
        if loader["class_type"] != "LoKrLoaderModelOnly":
            loader["inputs"]["clip"] = clip
            clip = [str(number), 1]
        model = [str(number), 0]
        prompt[str(number)] = loader
        if loader["class_type"] == "LoKrLoader":
            prompt[str(number + 100)] = {"class_type": "PreviewAny", "inputs": {"source": [str(number), 2]}}
    text = {"class_type": "CLIPTextEncode", "inputs": {"text": "a lighthouse", "clip": clip}}
    prompt |= {
        "3": text,
        "4": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": clip}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "6": {
            "class_type": "KSampler",
            "inputs": {
                "seed": 1,
                "steps": 2,
                "cfg": 2.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
                "model": model,
                "positive": ["3", 0],
                "negative": ["4", 0],
                "latent_image": ["5", 0],
            },
        },
        "7": {"class_type": "VAEDecode", "inputs": {"samples": ["6", 0], "vae": ["1", 2]}},
        "8": {"class_type": "SaveImage", "inputs": {"images": ["7", 0], "filename_prefix": "test"}},
    }
    return prompt


def loader(file: str, strength: float = 1.0, clip: float | None = None, mode: str = "merge") -> dict:
    """Merging, so that a strength has one image, whatever ran before: live rounds in its own way."""
    strengths = {"strength_model": strength, "strength_clip": strength if clip is None else clip}
    return {"class_type": "LoKrLoader", "inputs": {"lokr_name": file, "mode": mode, **strengths}}


def core_lora(strength: float) -> dict:
    inputs = {"lora_name": "plain-lora.safetensors", "strength_model": strength, "strength_clip": strength}
    return {"class_type": "LoraLoader", "inputs": inputs}


def outcome(server, *loaders: dict) -> tuple[np.ndarray, list[str]]:
    """The image's pixels and the loaders' reports."""
    history = server.run(workflow(*loaders))
    assert history["status"]["status_str"] == "success", history["status"]["messages"][-1]
    (saved,) = history["outputs"]["8"]["images"]
    reports = [shown["text"][0] for node, shown in sorted(history["outputs"].items()) if int(node) >= 100]
    with Image.open(server.base / "output" / saved["filename"]) as image:
        return np.asarray(image), reports


def image(server, *loaders: dict) -> np.ndarray:
    return outcome(server, *loaders)[0]


def failure(server, *loaders: dict) -> dict:
    """The error that a person sees on the node."""
    history = server.run(workflow(*loaders))
    assert history["status"]["status_str"] == "error"
    (error,) = (data for kind, data in history["status"]["messages"] if kind == "execution_error")
    return error


def test_each_strength_gives_its_image_and_0_the_image_without_the_node(server):
    base = image(server)
    half, full = image(server, loader("style.safetensors", 0.5)), image(server, loader("style.safetensors", 1.0))
    assert not np.array_equal(half, base)
    assert not np.array_equal(full, base)
    assert not np.array_equal(half, full)
    assert np.array_equal(image(server, loader("style.safetensors", 0.0)), base)
    assert np.array_equal(image(server, loader("style.safetensors", 0.5)), half)
    assert np.array_equal(image(server), base)


def test_the_report_says_that_everything_was_applied(server):
    _, (report,) = outcome(server, loader("style.safetensors"))
    assert report.startswith("4 of 4 modules applied")


def test_strengths_beyond_the_slider_are_taken(server):
    assert not np.array_equal(
        image(server, loader("style.safetensors", 3.5)), image(server, loader("style.safetensors", 2.0))
    )
    assert not np.array_equal(
        image(server, loader("style.safetensors", -5)), image(server, loader("style.safetensors", -2))
    )


def test_text_encoder_and_model_have_their_own_strengths(server):
    both = image(server, loader("style.safetensors", 1.0, 1.0))
    model_only = {
        "class_type": "LoKrLoaderModelOnly",
        "inputs": {"lokr_name": "style.safetensors", "strength_model": 1.0, "mode": "merge"},
    }
    without_clip = image(server, loader("style.safetensors", 1.0, 0.0))
    assert not np.array_equal(both, without_clip)
    assert np.array_equal(image(server, model_only), without_clip)


def test_nodes_chain_with_one_another_and_with_cores_lora_loader(server):
    a, b, lora = loader("style.safetensors", 0.7), loader("other.safetensors", -0.4), core_lora(0.6)
    seen = [
        image(server, *chain) for chain in ((a,), (b,), (lora,), (a, b), (lora, a), (a, lora), (lora, a, b, a, lora))
    ]
    assert all(not np.array_equal(x, y) for i, x in enumerate(seen[:5]) for y in seen[:i])
    # The order of additions matters to rounding alone: a step of one in a few pixels.
    assert np.abs(seen[4].astype(int) - seen[5].astype(int)).max() <= 1
    assert np.array_equal(image(server, a, b), seen[3])


def test_a_lora_beside_a_lokr_is_applied_too(server):
    _, (report,) = outcome(server, loader("mixed.safetensors"))
    assert report.startswith("3 of 3 modules applied")
    assert "[LoRA]: applied" in report


def test_a_partial_match_runs_and_says_what_is_missing(server):
    _, (report,) = outcome(server, loader("partial.safetensors"))
    assert report.startswith("4 of 5 modules applied, 1 refused")
    assert "lora_unet_double_blocks_*_img_attn_qkv [LoKr]: refused: no such weight" in report


def test_no_match_at_all_is_an_error_on_the_node_and_the_queue_goes_on(server):
    error = failure(server, loader("nothing.safetensors"))
    assert error["node_type"] == "LoKrLoader"
    assert "None of the 1 modules" in error["exception_message"]
    assert "nothing.safetensors" in error["exception_message"]
    assert np.array_equal(image(server), image(server, loader("style.safetensors", 0.0)))


def test_a_broken_file_is_an_error_on_the_node_and_the_queue_goes_on(server):
    before = image(server)
    error = failure(server, loader("broken.safetensors"))
    assert "truncated" in error["exception_message"]
    assert "broken.safetensors" in error["exception_message"]
    assert np.array_equal(image(server), before)


def test_a_strength_that_is_no_number_is_an_error_on_the_node(server):
    error = failure(server, loader("style.safetensors", float("nan")))
    assert "strength must be a finite number" in error["exception_message"]


def test_a_missing_file_is_named_before_anything_runs(server):
    answer = server.queue(workflow(loader("stlye.safetensors")))
    assert "prompt_id" not in answer
    text = json.dumps(answer)
    assert "stlye.safetensors" in text
    assert "near: style.safetensors" in text


def test_files_are_found_anew_and_read_anew(server):
    path = server.base / "models/loras/new.safetensors"

    def offered():
        return server.get("/object_info/LoKrLoader")["LoKrLoader"]["input"]["required"]["lokr_name"]

    assert "new.safetensors" not in json.dumps(offered())
    save_file(lokr(LAYERS, 5), str(path))
    assert "new.safetensors" in json.dumps(offered())
    first = image(server, loader("new.safetensors"))
    save_file(lokr(LAYERS, 6), str(path))
    assert not np.array_equal(image(server, loader("new.safetensors")), first)


def test_a_person_finds_the_nodes(server):
    for node in ("LoKrLoader", "LoKrLoaderModelOnly"):
        info = server.get(f"/object_info/{node}")[node]
        assert info["category"] == "loaders/lokr"
        assert {"lokr", "lycoris"} <= set(info["search_aliases"])
        kind, options = info["input"]["required"]["strength_model"]
        assert (kind, options["min"], options["max"], options["display"]) == ("FLOAT", -2.0, 2.0, "slider")
