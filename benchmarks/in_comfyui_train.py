"""Runs inside ComfyUI's interpreter: ``in_comfyui_train.py BASE OUT.json``. LoKr Train against core's Train LoRA.

SD1.5's UNet in fp32, one picture of 32×32 latents, no checkpointing. Core's LoKr has whole factors, the first of the
size of its rank, on every weight with two axes or more: so has ours here. Core trains norms and biases as well.

Each training has a process of its own, ``LOKR_SIDE`` being its side: memory that a process has freed and kept, such as
the other side's, would not count again at the next peak. Turns go round all sides, every second one backwards;
``LOKR_TURNS`` is their number.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
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
SIDES = ("ours", "core's bypass", "core")
MODEL = shared.BASE / "models/diffusion_models/unet.safetensors"
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
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what glibc keeps of freed memory would be in use again, and not count
    try:
        peak = shared.measure.peak_extra(lambda: node.execute(**pictures, **lists))
    finally:
        hook.remove()
    return [after - before for before, after in zip(ends, ends[1:], strict=False)], peak


def digest(patcher) -> dict[str, int]:
    """A checksum of each weight's bytes."""
    tensors = patcher.model.state_dict().items()
    return {name: zlib.crc32(t.detach().contiguous().flatten().view(torch.uint8).numpy()) for name, t in tensors}


def train(side: str) -> dict:
    """One training of ``side`` in this process: seconds of its steps, peak in bytes, whether the model is as before."""
    for pack in sorted((shared.BASE / "custom_nodes").iterdir()):
        assert asyncio.run(nodes.load_custom_node(str(pack)))
    # From a file, of which core makes its own copy.
    base = comfy.sd.load_diffusion_model(str(MODEL), model_options={"dtype": torch.float32})
    before = digest(base)
    if side == "ours":
        seconds, peak = measured(nodes.NODE_CLASS_MAPPINGS["LoKrTrain"], {"model": base, **OURS})
    else:
        core = {"model": base, **CORE, "bypass_mode": side == "core's bypass"}
        seconds, peak = measured(nodes_train.TrainLoraNode, core)
    return {"seconds": seconds, "peak": peak, "same": digest(base) == before}


def in_its_own_process(side: str) -> dict:
    """``train(side)`` in a new process."""
    out = shared.OUT.with_name("side.json")
    command = [sys.executable, __file__, str(shared.BASE), str(out)]
    subprocess.run(command, env={**os.environ, "LOKR_SIDE": side}, check=True)
    found = json.loads(out.read_text())
    steps = [round(seconds, 2) for seconds in found["seconds"]]
    print(f"{side}: steps {steps} s, peak {found['peak'] / 2**30:.2f} GiB", flush=True)
    return found


def compared() -> dict:
    """The row of all sides: medians of all their turns."""
    MODEL.parent.mkdir(parents=True, exist_ok=True)
    weights = shared.unet(torch.float32).model.state_dict().items()
    save_file({f"model.{n}": t.contiguous() for n, t in weights if n.startswith("diffusion_model.")}, MODEL)
    del weights
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    found: dict[str, list[dict]] = {side: [] for side in SIDES}
    for turn in range(TURNS):
        for side in SIDES[:: -1 if turn % 2 else 1]:
            found[side].append(in_its_own_process(side))
    medians = {side: statistics.median([s for run in runs for s in run["seconds"]]) for side, runs in found.items()}
    return {
        "case": f"SD1.5 UNet fp32, a picture of 32×32 latents, whole factors of {FACTOR}: a training step",
        "step s": medians,
        "ours times faster": {side: value / medians["ours"] for side, value in medians.items()},
        "peak MiB": {side: statistics.median(run["peak"] for run in runs) / 2**20 for side, runs in found.items()},
        "the model afterwards, bit for bit": all(run["same"] for runs in found.values() for run in runs),
    }


def main() -> None:
    side = os.environ.get("LOKR_SIDE")
    shared.OUT.write_text(json.dumps(train(side) if side else [compared()]))


if __name__ == "__main__":
    with torch.inference_mode():
        main()
