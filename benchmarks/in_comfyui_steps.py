"""Runs inside ComfyUI's interpreter: ``in_comfyui_steps.py BASE OUT.json``. Whole KSampler runs: live against merged.

SD1.5's UNet in fp32, 512×512, 4 steps with guidance, a LoKr of factor 8 on the modules of in_comfyui.py. Each side's
model is in place before its run is timed, so that only the sampling counts.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time

import in_comfyui as shared  # reads the arguments, and makes ComfyUI importable

# isort: split
import comfy.model_management
import torch
from comfy_extras.nodes_lora_debug import LoraLoaderBypass

import nodes

TURNS, STEPS, SIDE = 4, 4, 64


def seconds(patcher) -> float:
    """Seconds of a KSampler run on a model that is already loaded and patched."""
    comfy.model_management.load_models_gpu([patcher], force_full_load=True)
    cond = [[torch.zeros(1, 77, 768), {}]]
    latent = {"samples": torch.zeros(1, 4, SIDE, SIDE)}
    start = time.perf_counter()
    nodes.common_ksampler(patcher, 1, STEPS, 7.0, "euler", "normal", cond, cond, latent)
    return time.perf_counter() - start


def main() -> None:
    for pack in sorted((shared.BASE / "custom_nodes").iterdir()):
        assert asyncio.run(nodes.load_custom_node(str(pack)))
    base = shared.unet(torch.float32)
    rows = []
    for form, rank in (("whole", None), ("low-rank r 16", 16)):
        file = f"steps-{rank}.safetensors"
        modules = shared.lokr_file(base, shared.BASE / "models/loras" / file, rank)
        ours = nodes.NODE_CLASS_MAPPINGS["LoKrLoader"]
        sides = {
            "no adapter": base,
            "ours, merge": ours.EXECUTE_NORMALIZED(base, file, 0.8, 0.0, None, "merge").args[0],
            "ours": ours.EXECUTE_NORMALIZED(base, file, 0.8, 0.0, None, "live").args[0],
            "ComfyUI's bypass": LoraLoaderBypass().load_lora(base, None, file, 0.8, 0.0)[0],
        }
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(TURNS):
            for name, patcher in sides.items():
                times[name].append(seconds(patcher))
        merged = times["ours, merge"]
        rows.append(
            {
                "case": f"SD1.5 UNet fp32, 512x512, {STEPS} steps, {modules} modules, {form}: a KSampler run",
                "run s": {name: statistics.median(found) for name, found in times.items()},
                "of a merged run": {
                    name: statistics.median(a / b for a, b in zip(found, merged, strict=True))
                    for name, found in times.items()
                },
            }
        )
    shared.OUT.write_text(json.dumps(rows))


if __name__ == "__main__":
    with torch.inference_mode():
        main()
