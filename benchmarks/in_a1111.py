"""A real A1111 on its CPU, over its API: the cost of a new strength, a first use and no tag, against its own Lora.

``python -m benchmarks --only a1111``. An SD1.5-shaped checkpoint in fp32 (see ``find_a1111``) and a low-rank LoKr on
UNet and text encoder. Every run's prompt has another word than the one before, so that the host encodes it anew in all.
"""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from lokr_core._files import read_header
from tests.hosts import A1111, WebServer, find_a1111

__all__ = ["measured_in", "run"]

RUNS = {"lokr": 10, "lora": 4}  # the built-in takes half a minute per run
SMALL = {"seed": 1, "steps": 2, "width": 64, "height": 64, "cfg_scale": 3, "sampler_name": "Euler"}
# A1111's default emphasis divides by the mean of the encoded prompt, which is 0 for random weights without biases.
SMALL["override_settings"] = {"emphasis": "No norm"}
# Prefixes of an SD1.5 checkpoint -> of adapters: the original names, which the built-in knows too.
PREFIXES = {"model.diffusion_model.": "lora_unet_", "cond_stage_model.transformer.": "lora_te_"}
LAYERS = ("attn1", "attn2", "ff.net", "proj_in", "proj_out", "in_layers.2", "out_layers.3", "self_attn", "mlp.")


def run() -> list[dict]:
    host = find_a1111()
    if host is None:
        print("no A1111 here (A1111_PATH, A1111_PYTHON): its part is left out")
        return []
    return measured_in(host)


def measured_in(host: A1111, *arguments: str) -> list[dict]:
    """One row for each of ``lokr`` and ``lora``, seconds more than a run in which only a word changed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "models/Lora/style.safetensors"
        path.parent.mkdir(parents=True)
        modules = write_lokr(next(host.checkpoints.glob("*.safetensors")), path)
        with host.serve(Path(folder), "--no-hashing", *arguments) as server:
            return [measure(server, path, kind, modules) for kind in ("lokr", "lora")]


def write_lokr(checkpoint: Path, path: Path, rank: int = 8) -> int:
    """A LoKr of factor 8 for the attentions, feed-forwards and convolutions of ``checkpoint``; how many modules."""
    torch.manual_seed(0)
    tensors = {}
    for name, info in read_header(checkpoint).tensors.items():
        prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
        module, _, parameter = name.rpartition(".")
        chosen = prefix and parameter == "weight" and len(info.shape) > 1 and any(layer in name for layer in LAYERS)
        if not chosen:
            continue
        out, columns, *kernel = info.shape
        called = PREFIXES[prefix] + module.removeprefix(prefix).replace(".", "_")
        fan_in = columns // 8 * torch.Size(kernel).numel()
        tensors[f"{called}.lokr_w1"] = torch.randn(8, 8) / 8
        tensors[f"{called}.lokr_w2_a"] = torch.randn(out // 8, rank) * 0.1
        tensors[f"{called}.lokr_w2_b"] = torch.randn(rank, fan_in) / fan_in**0.5
        tensors[f"{called}.alpha"] = torch.tensor(float(rank))
    save_file({name: tensor.half() for name, tensor in tensors.items()}, str(path))
    return len(tensors) // 4


def measure(server: WebServer, path: Path, kind: str, modules: int) -> dict:
    words, strengths = itertools.count(), (0.1 + 0.05 * number for number in itertools.count())

    def seconds(prompt: str) -> float:
        start = time.perf_counter()
        server.post("/sdapi/v1/txt2img", {"prompt": f"pier {next(words)} {prompt}", **SMALL})
        return time.perf_counter() - start

    def image(prompt: str) -> str:
        return server.post("/sdapi/v1/txt2img", {"prompt": prompt, **SMALL})["images"][0]

    base = image("a pier")
    firsts, changed, unchanged, without = [], [], [], []
    seconds("")
    for _ in range(RUNS[kind]):
        without.append(seconds(""))
        os.utime(path)  # a new version of the file: no cache of it is valid
        strength = next(strengths)
        firsts.append(seconds(f"<{kind}:style:{strength}>"))
        seconds(f"<{kind}:style:{strength}>")
        unchanged.append(seconds(f"<{kind}:style:{strength}>"))
        changed.append(seconds(f"<{kind}:style:{next(strengths)}>"))
        seconds("")
    usual, plain = statistics.median(unchanged), statistics.median(without)
    return {
        "case": f"<{kind}:…>, {modules} modules",
        "seconds": {
            "run without a tag": plain,
            "run with the same tag": usual,
            "changed strength, over it": statistics.median(changed) - usual,
            "first use, over it": statistics.median(firsts) - usual,
            "the very first use, over it": firsts[0] - usual,
        },
        "base picture after it, bit for bit": image("a pier") == base,
    }
