"""Runs inside ComfyUI's interpreter: ``in_comfyui_train.py BASE OUT.json``. LoKr Train against core's Train LoRA.

SD1.5's UNet in fp32, one picture of 32×32 latents, no checkpointing. Core's LoKr has whole factors, the first of the
size of its rank, on every weight with two axes or more: so has ours here. Core trains norms and biases as well. Turns
go round all sides; ``LOKR_TURNS`` is their number.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import statistics
import time
import zlib

import in_comfyui as shared  # reads the arguments, and makes ComfyUI importable

# isort: split
import comfy.sd
import torch
from comfy_extras import nodes_train
from safetensors.torch import save_file
from torch.optim.optimizer import register_optimizer_step_post_hook

import nodes

TURNS, STEPS, FACTOR = int(os.environ.get("LOKR_TURNS", 2)), 4, 8
CORE = dict(
    batch_size=1,
    steps=STEPS,
    grad_accumulation_steps=1,
    learning_rate=1e-4,
    rank=FACTOR,
    optimizer="AdamW",
    loss_function="MSE",
    seed=1,
    training_dtype="fp32",
    lora_dtype="fp32",
    quantized_backward=False,
    algorithm="LoKr",
    gradient_checkpointing=False,
    checkpoint_depth=1,
    offloading=False,
    existing_lora="[None]",
    bucket_mode=False,
)
OURS = dict(
    file_name="trained",
    steps=STEPS,
    learning_rate=1e-4,
    batch_size=1,
    factor=FACTOR,
    rank=FACTOR,
    seed=1,
    sample_every=0,
    existing="start over",
    full_matrix=True,
    precision="fp32",
    gradient_checkpointing=False,
)


def measured(node, given: dict) -> tuple[list[float], int]:
    """(seconds of each step but the first, bytes of memory at the peak beyond those before) of a node's training."""
    ends: list[float] = []
    hook = register_optimizer_step_post_hook(lambda *_: ends.append(time.perf_counter()))
    pictures = {"latents": [{"samples": torch.randn(1, 4, 32, 32)}], "positive": [[[torch.randn(1, 77, 768), {}]]]}
    lists = {name: [value] for name, value in given.items()}
    try:
        peak = shared.measure.peak_extra(lambda: node.execute(**pictures, **lists))
    finally:
        hook.remove()
    gc.collect()
    return [after - before for before, after in zip(ends, ends[1:], strict=False)], peak


def from_file(patcher):
    """The same model read from a file, from which core makes its own copy."""
    file = shared.BASE / "models/diffusion_models/unet.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    weights = patcher.model.state_dict().items()
    save_file({f"model.{n}": t.contiguous() for n, t in weights if n.startswith("diffusion_model.")}, file)
    return comfy.sd.load_diffusion_model(str(file), model_options={"dtype": torch.float32})


def digest(patcher) -> dict[str, int]:
    """A checksum of each weight's bytes."""
    tensors = patcher.model.state_dict().items()
    return {name: zlib.crc32(t.detach().contiguous().flatten().view(torch.uint8).numpy()) for name, t in tensors}


def main() -> None:
    for pack in sorted((shared.BASE / "custom_nodes").iterdir()):
        assert asyncio.run(nodes.load_custom_node(str(pack)))
    base = from_file(shared.unet(torch.float32))
    core, ours = nodes_train.TrainLoraNode, nodes.NODE_CLASS_MAPPINGS["LoKrTrain"]
    sides = {
        "ours": (ours, {"model": base, **OURS}),
        "core's bypass": (core, {"model": base, **CORE, "bypass_mode": True}),
        "core": (core, {"model": base, **CORE, "bypass_mode": False}),
    }
    before = digest(base)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    peaks: dict[str, int] = {}
    for _ in range(TURNS):
        for name, (node, given) in sides.items():
            found, peaks[name] = measured(node, given)
            seconds[name] += found
            print(f"{name}: steps {[round(s, 2) for s in found]} s, peak {peaks[name] / 2**30:.2f} GiB", flush=True)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    row = {
        "case": f"SD1.5 UNet fp32, a picture of 32×32 latents, whole factors of {FACTOR}: a training step",
        "step s": medians,
        "ours times faster": {name: value / medians["ours"] for name, value in medians.items()},
        "peak MiB": {name: value / 2**20 for name, value in peaks.items()},
        "the model afterwards, bit for bit": digest(base) == before,
    }
    shared.OUT.write_text(json.dumps([row]))


if __name__ == "__main__":
    with torch.inference_mode():
        main()
