"""Runs inside ComfyUI's interpreter: ``in_comfyui_live.py BASE OUT.json``. From a changed strength to the first step.

The SD1.5-sized UNet of in_comfyui.py and its 258 modules. Each side is a loader node and core's KSampler, stopped when
the diffusion model is called for the first time. Against a run where nothing changed, and whose loader did not run.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import statistics
import time

import in_comfyui as shared  # reads the arguments, and makes ComfyUI importable

# isort: split
import comfy.lora
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_lora_debug import LoraLoaderBypass

import nodes

TURNS = 6  # the first is a warm-up


class Reached(Exception):
    """The diffusion model is called."""


def reached(executor, *arguments, **keywords):
    raise Reached


def to_first_step(load) -> float:
    """Seconds from the loader's execution to the diffusion model's first call."""
    start = time.perf_counter()
    patcher = load()
    watched = patcher.clone()
    watched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "benchmark", reached)
    cond = [[torch.zeros(1, 77, 768), {}]]
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    try:
        nodes.common_ksampler(watched, 1, 20, 1.0, "euler", "normal", cond, cond, latent)
    except Reached:
        return time.perf_counter() - start
    raise AssertionError("the diffusion model was not called")


def attaching(base, path) -> dict[str, float]:
    """Seconds to resolve, and then to attach, a new file."""
    pack = nodes.NODE_CLASS_MAPPINGS["LoKrLoader"].__module__.removesuffix(".nodes.loader")
    bridge, live, core = (importlib.import_module(f"{pack}.{n}") for n in ("nodes.bridge", "nodes.live", "lokr_core"))
    adapter = core.load_adapter(path)
    times = [time.perf_counter()]
    plan = bridge.plan_of(adapter, base.model, comfy.lora.model_lora_keys_unet)
    times.append(time.perf_counter())
    live.seat_for(base.model, plan.adapter, plan.target)
    times.append(time.perf_counter())
    return {"match names": times[1] - times[0], "attach": times[2] - times[1]}


def main() -> None:
    for pack in sorted((shared.BASE / "custom_nodes").iterdir()):
        assert asyncio.run(nodes.load_custom_node(str(pack)))
    base = shared.unet()
    rows = []
    for form, rank in (("whole", None), ("low-rank r 16", 16)):
        file = f"live-{rank}.safetensors"
        modules = shared.lokr_file(base, shared.BASE / "models/loras" / file, rank)
        attach = attaching(base, shared.BASE / "models/loras" / file)
        core, bypass, ours = nodes.LoraLoader(), LoraLoaderBypass(), nodes.NODE_CLASS_MAPPINGS["LoKrLoader"]
        sides = {
            "ComfyUI's merge": lambda s, f=file, n=core: n.load_lora(base, None, f, s, 0.0)[0],
            "ComfyUI's bypass": lambda s, f=file, n=bypass: n.load_lora(base, None, f, s, 0.0)[0],
            "ours, merge": lambda s, f=file, n=ours: n.EXECUTE_NORMALIZED(base, f, s, 0.0, None, "merge").args[0],
            "ours": lambda s, f=file, n=ours: n.EXECUTE_NORMALIZED(base, f, s, 0.0, None, "live").args[0],
        }
        found = {name: {"first": [], "unchanged": [], "changed": []} for name in sides}
        for turn in range(TURNS):
            for name, side in sides.items():
                to_first_step(lambda: base)
                strength = 0.9 - turn / 100
                held: list = []

                def load(strength=strength, side=side, held=held):
                    held[:] = [side(strength)]
                    return held[0]

                first = to_first_step(load)
                unchanged = to_first_step(lambda held=held: held[0])
                changed = to_first_step(lambda load=load, strength=strength: load(strength - 0.3))
                if turn == 0:
                    found[name]["first of all"] = first
                    continue
                for key, value in (("first", first), ("unchanged", unchanged), ("changed", changed)):
                    found[name][key].append(value)
        rows.append(
            {
                "case": f"SD1.5 UNet fp16, {modules} modules, {form}: to the first step",
                "a new file s": attach,
                "first of all s": {name: times["first of all"] for name, times in found.items()},
                "first run s": {name: statistics.median(times["first"]) for name, times in found.items()},
                "unchanged s": {name: statistics.median(times["unchanged"]) for name, times in found.items()},
                "over an unchanged run s": {
                    name: statistics.median(
                        after - before for after, before in zip(times["changed"], times["unchanged"], strict=True)
                    )
                    for name, times in found.items()
                },
            }
        )
    shared.OUT.write_text(json.dumps(rows))


if __name__ == "__main__":
    with torch.inference_mode():
        main()
