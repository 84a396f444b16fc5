"""Runs inside ComfyUI's interpreter: ``in_comfyui.py BASE OUT.json``. A whole SD1.5-sized UNet in fp16, patched.

Three adapters on the same 258 modules in one process: one that adds nothing (what ComfyUI's own copying and casting
costs: the floor), ComfyUI's own LoKr, and ours, each read from the same file by its own loader node.
"""

from __future__ import annotations

import asyncio
import cProfile
import importlib.util
import json
import os
import pstats
import statistics
import sys
import time
from pathlib import Path

BASE, OUT = Path(sys.argv[1]), Path(sys.argv[2])
sys.path.insert(0, os.environ["COMFYUI_PATH"])
sys.argv = [sys.argv[0], "--cpu", "--base-directory", str(BASE), "--database-url", "sqlite:///:memory:"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.cli_args  # noqa: E402, F401
import comfy.lora  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402
import torch  # noqa: E402
from comfy.weight_adapter import WeightAdapterBase  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

import nodes  # noqa: E402

spec = importlib.util.spec_from_file_location("measure", Path(__file__).with_name("measure.py"))
measure = importlib.util.module_from_spec(spec)
spec.loader.exec_module(measure)

FLOOR = "nothing (the floor)"
TURNS = 8  # the first is a warm-up
KINDS = ("attentions", "resnets", "downsamplers", "upsamplers")  # the modules that LyCORIS' preset "full" trains


class Nothing(WeightAdapterBase):
    """An empty patch: the weight does not change."""

    name = "nothing"

    def __init__(self, loaded_keys=frozenset(), weights=()):
        self.loaded_keys, self.weights = loaded_keys, weights

    def calculate_weight(self, weight, *arguments, **keywords):
        return weight


def unet(dtype: torch.dtype = torch.float16):
    """SD1.5's UNet with random weights, as ComfyUI loads it."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    torch.manual_seed(0)
    config = dict(
        image_size=32,
        in_channels=4,
        out_channels=4,
        model_channels=320,
        num_res_blocks=[2, 2, 2, 2],
        channel_mult=[1, 2, 4, 4],
        num_heads=8,
        use_spatial_transformer=True,
        transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
        transformer_depth_output=[1] * 9 + [0] * 3,
        transformer_depth_middle=1,
        context_dim=768,
        legacy=False,
    )
    shapes = UNetModel(**config, dtype=dtype, device="meta", operations=comfy.ops.disable_weight_init)
    state = {
        f"model.diffusion_model.{name}": (torch.randn(t.shape) * 0.02).to(dtype)
        for name, t in shapes.state_dict().items()
    }
    return comfy.sd.load_diffusion_model_state_dict(state, model_options={"dtype": dtype})


def lokr_file(patcher, path: Path, rank: int | None) -> int:
    """A LoKr of factor 8 for every module of KINDS, in kohya's names; returns how many."""
    keys = comfy.lora.model_lora_keys_unet(patcher.model, {})
    shapes = {name: tuple(t.shape) for name, t in patcher.model.state_dict().items()}
    tensors = {}
    kinds = [n for n in keys if n.startswith("lora_unet_") and any(f"_{kind}_" in n for kind in KINDS)]
    chosen = [n for n in kinds if keys[n] in shapes and len(shapes[keys[n]]) > 1]
    for name in chosen:
        out, columns, *kernel = shapes[keys[name]]
        tensors[f"{name}.lokr_w1"] = torch.randn(8, 8) * 0.1
        if rank is None:
            tensors[f"{name}.lokr_w2"] = torch.randn(out // 8, columns // 8, *kernel) * 0.01
        else:
            tensors[f"{name}.lokr_w2_a"] = torch.randn(out // 8, rank) * 0.1
            tensors[f"{name}.lokr_w2_b"] = torch.randn(rank, columns // 8 * torch.Size(kernel).numel()) * 0.1
        tensors[f"{name}.alpha"] = torch.tensor(1.0)
    save_file({name: t.half() for name, t in tensors.items()}, str(path))
    return len(chosen)


def of_the_floor(times: dict[str, list[float]]) -> dict[str, float]:
    """Each side's median ratio to the floor's time in the same turn."""
    floor = times[FLOOR]
    return {n: statistics.median(a / b for a, b in zip(seen, floor, strict=True)) for n, seen in times.items()}


def patch(patcher) -> float:
    """Seconds to patch ``patcher``'s weights."""
    start = time.perf_counter()
    comfy.model_management.load_models_gpu([patcher], force_full_load=True)
    return time.perf_counter() - start


def main() -> None:
    for pack in sorted((BASE / "custom_nodes").iterdir()):
        assert asyncio.run(nodes.load_custom_node(str(pack)))
    base = unet()
    rows = []
    for form, rank in (("whole", None), ("low-rank r 16", 16)):
        file = f"bench-{rank}.safetensors"
        modules = lokr_file(base, BASE / "models/loras" / file, rank)
        ours, core = nodes.NODE_CLASS_MAPPINGS["LoKrLoader"], nodes.LoraLoader()

        def ours_at(strength, file=file, ours=ours):
            return ours.EXECUTE_NORMALIZED(base, file, strength, 0.0, None, "merge").args[0]

        def core_at(strength, file=file, core=core):
            return core.load_lora(base, None, file, strength, 0.0)[0]

        patched = list(core_at(1.0).patches)
        assert len(patched) == modules == len(ours_at(1.0).patches)

        def nothing_at(strength, patched=patched):
            clone = base.clone()
            clone.add_patches({key: Nothing() for key in patched}, strength)
            return clone

        sides = {FLOOR: nothing_at, "ComfyUI's LoKr": core_at, "ours": ours_at}
        first = {name: [] for name in sides}
        change = {name: [] for name in sides}
        peak = {}
        for turn in range(TURNS):
            for name, side in sides.items():
                patch(base)
                seconds = patch(side(1.0))
                changed = patch(side(0.9 - turn / 100))
                if turn:
                    first[name].append(seconds)
                    change[name].append(changed)
                if turn == TURNS - 1:
                    patch(base)
                    peak[name] = measure.peak_allocated(lambda side=side: patch(side(0.5)))
        profile = cProfile.Profile()
        again = ours_at(0.31)
        profile.runcall(patch, again)
        stats = pstats.Stats(profile)
        total = stats.total_tt
        calls = [(f"{Path(f).name}:{name}", own, whole) for (f, _, name), (_, _, own, whole, _) in stats.stats.items()]
        rows.append(
            {
                "case": f"SD1.5 UNet fp16, {modules} modules, {form}",
                "first patch s": {name: statistics.median(times) for name, times in first.items()},
                "first patch, of the floor": of_the_floor(first),
                "change s": {name: statistics.median(times) for name, times in change.items()},
                "change, of the floor": of_the_floor(change),
                "peak MiB": {name: value / 2**20 for name, value in peak.items()},
                "profile": [
                    {"call": call, "own": own / total, "with callees": whole / total}
                    for call, own, whole in sorted(calls, key=lambda c: -c[1])[:10]
                ]
                + [
                    {"call": call, "own": own / total, "with callees": whole / total}
                    for call, own, whole in calls
                    if call.endswith(":calculate_weight") and "patch.py" in call
                ],
            }
        )
    OUT.write_text(json.dumps(rows))


if __name__ == "__main__":
    with torch.inference_mode():
        main()
