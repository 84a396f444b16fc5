"""Jobs of in_host.py about live application: each runs in a real ComfyUI process and writes what it saw as JSON."""

from __future__ import annotations

import gc
import importlib
import json
import random
import resource
from pathlib import Path

import comfy.model_management as management
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_lora_debug import LoraLoaderBypass
from safetensors.torch import load_file, save_file

import __main__ as host  # in_host.py, which runs this
import nodes

KEY = "a test's"


def pack(module: str):
    """A module of this project as ComfyUI has it."""
    name = nodes.NODE_CLASS_MAPPINGS["LoKrLoader"].__module__.removesuffix(".nodes.loader")
    return importlib.import_module(f"{name}.{module}")


def ours(model, file: str, strength: float, mode: str = "live", clip=None, **more):
    """(model, clip, report) of LoKrLoader."""
    loader = nodes.NODE_CLASS_MAPPINGS["LoKrLoader"]
    return host.output(loader.EXECUTE_NORMALIZED(model, file, strength, strength, clip, mode, **more))[:3]


def core(model, file: str, strength: float):
    return nodes.LoraLoader().load_lora(model, None, file, strength, 0.0)[0]


def core_bypass(model, file: str, strength: float):
    return LoraLoaderBypass().load_lora(model, None, file, strength, 0.0)[0]


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def write(out: str, found) -> None:
    Path(out).write_text(json.dumps(found))


def watched(model, see):
    """A clone of ``model`` that calls ``see(transformer options)`` at every call of the diffusion model."""
    model = model.clone()

    def wrapper(executor, *args, **kwargs):
        see(next(o for o in (*args, *kwargs.values()) if isinstance(o, dict) and "sigmas" in o))
        return executor(*args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, wrapper)
    return model


def encode(clip) -> torch.Tensor:
    return clip.encode_from_tokens(clip.tokenize("a lighthouse at dusk"))


def live_and_merge(model: str, files: dict[str, float], out: str) -> None:
    """Each file live and merged: outputs, the base's bytes before, during and after, how many patches there were."""
    base, clip = host.load(model)
    before = host.digest(base.model)
    plain = host.sample(base)
    found = {}
    for file, strength in files.items():
        during = []
        live, live_clip, report = ours(base, file, strength, clip=clip)
        seen = host.sample(watched(live, lambda _, during=during: during or during.append(host.digest(base.model))))
        merged, merged_clip, _ = ours(base, file, strength, "merge", clip=clip)
        wanted = host.sample(merged)
        row = found[file] = {
            "live to merge": distance(seen, wanted),
            "live to base": distance(seen, plain),
            "patches of live": len(live.patches),
            "bytes": len({before, *during}) == 1,
            "report": report,
        }
        if clip is not None and live_clip is not clip:
            row["clip"] = distance(encode(live_clip), encode(merged_clip))
            row["clip to base"] = distance(encode(live_clip), encode(clip))
        del live, merged
    again = host.sample(base)
    management.unload_all_models()
    found["base"] = {"same output": torch.equal(again, plain), "same bytes": host.digest(base.model) == before}
    write(out, found)


def rounding(model: str, reference: str, files: dict[str, float], out: str) -> None:
    """Live and merge on a model of few bits, against the fp32 model of the same weights: {file: {mode: distance}}."""
    small, _ = host.load(model)
    exact = comfy.sd.load_diffusion_model_state_dict(
        {name: dequantised(t).float() for name, t in small.model.diffusion_model.named_parameters()},
        model_options={"dtype": torch.float32},
    )
    found = {}
    for file, strength in files.items():
        wanted = host.sample(ours(exact, file, strength, "merge")[0])
        modes = {mode: host.sample(ours(small, file, strength, mode)[0]) for mode in ("live", "merge")}
        found[file] = {mode: distance(seen, wanted) for mode, seen in modes.items()}
        found[file]["base"] = distance(host.sample(small), host.sample(exact))
        found[file]["effect"] = distance(wanted, host.sample(exact))
        found[file]["auto"] = ours(small, file, strength, "auto")[2]
        found[file]["quantised"] = sum(type(p.data) is not torch.Tensor for p in small.model.parameters())
    write(out, found)


def make_quantised(model: str, path: str) -> None:
    """A model file with the large Linears in ComfyUI's own fp8 layout, a scale for each."""
    tensors = {}
    for name, tensor in load_file(model).items():
        if name.endswith(".weight") and tensor.ndim == 2 and "blocks" in name and min(tensor.shape) >= 256:
            layer, scale = name.removesuffix(".weight"), tensor.float().abs().max() / 448
            tensors[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
            tensors[f"{layer}.weight_scale"] = scale
            layout = json.dumps({"format": "float8_e4m3fn"}).encode()
            tensors[f"{layer}.comfy_quant"] = torch.tensor(list(layout), dtype=torch.uint8)
        else:
            tensors[name] = tensor
    save_file(tensors, path)


def dequantised(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.dequantize() if type(tensor).__name__ == "QuantizedTensor" else tensor


def chains(model: str, lokr: list[str], lora: str, out: str) -> None:
    """Two live, one merged, core's LoRA merged and bypassed, in several orders, against all of it merged by us."""
    base, _ = host.load(model)
    plain = host.sample(base)
    steps = {
        "live a": lambda m: ours(m, lokr[0], 0.7)[0],
        "live b": lambda m: ours(m, lokr[1], -0.4)[0],
        "merge c": lambda m: ours(m, lokr[2], 0.5, "merge")[0],
        "core": lambda m: core(m, lora, 0.6),
        "bypass": lambda m: core_bypass(m, lora, 0.3),
    }
    wanted = base
    for file, strength in zip(lokr, (0.7, -0.4, 0.5), strict=True):
        wanted = ours(wanted, file, strength, "merge")[0]
    wanted = host.sample(core(wanted, lora, 0.9))
    rolls = random.Random(0)
    found = {"effect": distance(wanted, plain), "orders": {}}
    for _ in range(6):
        order = rolls.sample(list(steps), len(steps))
        chained = base
        for name in order:
            chained = steps[name](chained)
        found["orders"][", ".join(order)] = distance(host.sample(chained), wanted)
    found["after"] = torch.equal(host.sample(base), plain)
    write(out, found)


def random_states(model: str, lokr: list[str], lora: str, turns: int, fresh_each: int, out: str) -> None:
    """Random chains of four adapters with core's loaders between, every so often against the same chain on a model of
    its own."""
    base, _ = host.load(model)
    before, plain = host.digest(base.model), host.sample(base)
    rolls, worst, live, seats, held = random.Random(1), 0.0, pack("nodes.live"), 0, []
    first = 0
    for turn in range(turns):
        chain = [(ours, file, rolls.choice([-1, 0, 0.3, 1]), rolls.choice(["live", "live", "merge"])) for file in lokr]
        chain += [(core, lora, 0.4), (core_bypass, lora, -0.2)]
        chain = rolls.sample(chain, rolls.randint(0, len(chain)))

        def build(model, chain=chain):
            for load, *arguments in chain:
                model = load(model, *arguments)
                model = model[0] if isinstance(model, tuple) else model
            return model

        built = build(base)
        seen = host.sample(built, steps=1)
        if turn % fresh_each == 0:
            fresh, _ = host.load(model)
            worst = max(worst, distance(seen, host.sample(build(fresh), steps=1)))
            del fresh
        # Some outlive others. (A core bypass that is forgotten while it is loaded stays in the model: core's own.)
        held = [*held, built][-rolls.randint(2, 5) :]
        seats = max(seats, len(live._seats.get(base.model, ())))
        if turn == turns // 4:
            first = resident_bytes()
    grown = resident_bytes() - first
    held.clear()
    built = None
    after = host.sample(base)
    management.unload_all_models()
    hooks = sum(len(module._forward_hooks) for module in base.model.modules())
    found = {"worst": worst, "seats": seats, "hooks": hooks, "grown": grown, "same output": torch.equal(after, plain)}
    write(out, found | {"same bytes": host.digest(base.model) == before})


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def forgotten(model: str, file: str, out: str) -> None:
    """A patcher that nobody holds any more, while its model is loaded; two clones with strengths of their own; and an
    interruption in the middle of sampling."""
    base, _ = host.load(model)
    plain, found = host.sample(base), {}
    alone = {strength: host.sample(ours(base, file, strength)[0]) for strength in (0.3, 1.0)}
    gc.collect()
    found["forgotten"] = torch.equal(host.sample(base), plain)
    weak, strong = (ours(base, file, strength)[0] for strength in (0.3, 1.0))
    clone = weak.clone()
    seen = [host.sample(m) for m in (weak, strong, base, clone, strong, weak)]
    wanted = [alone[0.3], alone[1.0], plain, alone[0.3], alone[1.0], alone[0.3]]
    found["clones"] = [torch.equal(a, b) for a, b in zip(seen, wanted, strict=True)]
    chained = ours(weak, file, 0.7)[0]
    found["adds up"] = distance(host.sample(chained), alone[1.0])
    # A loader's clone of a patcher that is loaded must not bring anything into force.
    host.sample(weak)
    core_on_top = ours(weak.clone(), file, 1.0, "merge")[0]
    found["a clone on top"] = torch.equal(host.sample(weak), alone[0.3])
    del core_on_top

    calls = []

    def stop(options):
        calls.append(1)
        if len(calls) == 2:
            raise management.InterruptProcessingException

    try:
        host.sample(watched(strong, stop))
    except management.InterruptProcessingException:
        found["interrupted"] = len(calls)
    found["then strong"] = torch.equal(host.sample(strong), alone[1.0])
    try:
        calls.clear()
        host.sample(watched(strong, stop))
    except management.InterruptProcessingException:
        pass
    found["then base"] = torch.equal(host.sample(base), plain)
    write(out, found)


def no_patching(model: str, file: str, out: str) -> None:
    """How often ComfyUI patches a weight when a strength is changed, live and merged."""
    base, _ = host.load(model)
    count = []
    patch = comfy.model_patcher.ModelPatcher.patch_weight_to_device

    def counted(self, key, *args, **kwargs):
        count.append(key)
        return patch(self, key, *args, **kwargs)

    comfy.model_patcher.ModelPatcher.patch_weight_to_device = counted
    found = {}
    for mode in ("live", "merge"):
        host.sample(ours(base, file, 1.0, mode)[0])
        for strength in (0.9, 0.2):
            count.clear()
            host.sample(ours(base, file, strength, mode)[0])
            found[mode] = len(count)
    comfy.model_patcher.ModelPatcher.patch_weight_to_device = patch
    write(out, found)


JOBS = {
    job.__name__: job
    for job in (
        make_quantised,
        live_and_merge,
        rounding,
        chains,
        random_states,
        forgotten,
        no_patching,
    )
}
