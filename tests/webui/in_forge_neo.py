"""Runs inside Forge Neo's own interpreter, in its folder, and prints a table of what it measured as JSON.

Small models of Forge Neo's classes, their weights plain or packed, take LoKr through ``webui.forge_neo``. What they put
out is compared with a plain model of the same class whose weights are the unpacked ones with the adapter merged by the
core.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import traceback
from pathlib import Path
from types import ModuleType, SimpleNamespace

sys.argv[1:] = ["--cpu"]
sys.path[:0] = [str(Path(__file__).parents[2]), ".", "modules_forge/packages"]

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

torch.set_num_threads(1)
torch.manual_seed(0)

# What the bridge asks of the web UI, which is not here.
modules = ModuleType("modules")
modules.errors = modules.patches = modules.script_callbacks = None
modules.sd_models = SimpleNamespace(model_data=SimpleNamespace(sd_model=None))
modules.devices = ModuleType("modules.devices")
modules.devices.device = torch.device("cpu")
sys.modules |= {"modules": modules, "modules.devices": modules.devices}

with contextlib.redirect_stdout(sys.stderr):
    from backend import memory_management
    from backend.args import dynamic_args
    from backend.diffusion_engine.base import ForgeObjects
    from backend.patcher.clip import CLIP
    from backend.patcher.lora import merge_lora_to_weight
    from backend.patcher.unet import UnetPatcher

    from tests.webui.neo_models import MODELS, TEXTS, run
    from tests.webui.neo_packings import PACKINGS, drawn, linears, made

from benchmarks.measure import peak_allocated  # noqa: E402
from lokr_core import attach, load_adapter, merge_adapter  # noqa: E402
from lokr_core.matching import Target, resolve  # noqa: E402
from tests.webui.adapters import lokr, save  # noqa: E402
from webui.forge_neo import HOST  # noqa: E402
from webui.patches import Updates  # noqa: E402

STRENGTH = 0.8


class Engine:
    """Forge Neo's object of a model, as far as the bridge knows it."""

    def __init__(self, denoiser: nn.Module, texts: dict[str, nn.Module]):
        denoiser.storage_dtype = denoiser.computation_dtype = torch.float32
        denoiser.load_device = denoiser.offload_device = denoiser.initial_device = torch.device("cpu")
        dynamic_args.ops = "ForgeOperations"
        unet = UnetPatcher.from_model(denoiser, diffusers_scheduler=None, config=None, k_predictor=nn.Identity())
        self.forge_objects = ForgeObjects(unet, CLIP(texts), None, None)
        self.forge_objects_original = self.forge_objects.shallow_copy()
        self.forge_objects_after_applying_lora = self.forge_objects.shallow_copy()

    def load(self) -> None:
        """As Forge Neo does before it runs the models."""
        memory_management.load_models_gpu([self.forge_objects.unet, self.forge_objects.clip.patcher])

    def lora(self, strength: float, names: list[str]) -> None:
        """What its Lora extension does when the tags have changed; 0: none is left."""
        unet, generator = self.forge_objects_original.unet, torch.Generator().manual_seed(5)
        if strength:
            shapes = {name: unet.model.diffusion_model.get_parameter(name).shape for name in names}
            patches = {
                f"diffusion_model.{name}": ("diff", (torch.randn(shape, generator=generator) / 20,))
                for name, shape in shapes.items()
            }
            unet = unet.clone()
            unet.add_patches(patches, strength, online_mode=dynamic_args.online_lora)
        self.forge_objects.unet = unet
        self.forge_objects_after_applying_lora = self.forge_objects.shallow_copy()


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def peak(dora: str | None, folder: Path) -> float:
    """The memory that patching one large weight takes besides the host's working copy of it, in weights."""
    layers = {"unet": {"double_blocks.0.img_attn.proj": (2048, 2048)}}
    adapter = load_adapter(save(lokr(layers, dora=dora), folder / "large.safetensors"))
    weight = torch.randn(2048, 2048)
    matches, _ = resolve(adapter, Target({"double_blocks.0.img_attn.proj.weight": weight.shape}))
    patch = HOST.patch(Updates(((matches[0], STRENGTH),)))
    entry = (1.0, patch, 1.0, None, None, False)
    return peak_allocated(lambda: merge_lora_to_weight([entry], weight, "key")) / weight.nbytes


def of_model(name: str, folder: Path, packing: str, dora: str | None) -> dict:
    """Relative distances from the reference: no adapter, live, merged once, merged while running; what is left; and
    how far the host's own output is from that of the unpacked weights.
    """
    make = MODELS[name][0]
    plain = made(make)
    weights, names = drawn(plain), linears(plain)
    model, unpacked = (made(make, weights), {}) if packing == "plain" else PACKINGS[packing](make, weights, names)
    unpacked = weights | unpacked
    reference = made(make, {key: w.clone() for key, w in unpacked.items()})
    layers = {"unet": {key[:-7]: tuple(weights[key].shape) for key in names}}
    path = save(lokr(layers, lambda _, path: f"diffusion_model.{path}", dora=dora), folder / "adapter.safetensors")
    adapter = load_adapter(path)
    bare = run(name, reference)
    merge_adapter(reference, adapter, STRENGTH)
    owner = modules.sd_models.model_data.sd_model = Engine(model, {})
    owner.load()
    base, expected = run(name, model), run(name, reference)
    found, result = HOST.model(), {"none": apart(base, expected), "modules": len(names), "host": apart(base, bare)}
    with attach(found.root, adapter, STRENGTH, target=found.target, weight_of=HOST.weight_of) as handle:
        result["refused"], result["live"] = len(handle.report.refused), apart(run(name, model), expected)
    for way, while_running in (("merge", False), ("merge while running", True)):
        dynamic_args.online_lora = while_running
        handle = HOST.merge(found, adapter, lambda module: STRENGTH)
        owner.load()
        result[way] = apart(run(name, model), expected)
        handle.remove()
        owner.load()
        result[f"left by {way}"] = apart(run(name, model), base)
    return result


def in_turns(online: bool, dora: str | None, folder: Path) -> dict:
    """Distances from what the two parties should give, in the orders in which they come and go."""
    name, (make, *_) = "SD1.5", MODELS["SD1.5"]
    weights, names = drawn(made(make)), linears(made(make))
    layers = {"unet": {key[:-7]: tuple(weights[key].shape) for key in names}}
    path = save(lokr(layers, lambda _, path: f"diffusion_model.{path}", dora=dora), folder / "turns.safetensors")
    adapter, expected = load_adapter(path), {}
    dynamic_args.online_lora = False
    for case in ("none", "ours", "theirs", "both"):
        reference = made(make, {key: w.clone() for key, w in weights.items()})
        if case in ("ours", "both"):
            merge_adapter(reference, adapter, STRENGTH)
        engine = Engine(reference, {})
        engine.lora(float(case in ("theirs", "both")), names)
        engine.load()
        expected[case] = run(name, reference)
    dynamic_args.online_lora = online
    model = made(make, weights)
    owner = modules.sd_models.model_data.sd_model = Engine(model, {})
    found = HOST.model()

    def off(case: str) -> float:
        owner.load()
        return apart(run(name, model), expected[case])

    result = {"seen": min(apart(expected[one], expected["none"]) for one in ("ours", "theirs"))}
    for first in ("ours", "theirs"):
        owner.lora(float(first == "theirs"), names)
        handle = HOST.merge(found, adapter, lambda module: STRENGTH)
        steps = {"alone" if first == "ours" else "both at first": off("ours" if first == "ours" else "both")}
        for lora, case in ((1, "both"), (0, "ours"), (1, "both")):
            owner.lora(float(lora), names)
            steps[f"{case} {lora}"] = off(case)
        handle.remove()
        steps["theirs"] = off("theirs")
        owner.lora(0, names)
        steps["none"] = off("none")
        result[f"{first} first"] = steps
    return result


def spelling(text: str, path: str) -> str:
    """The name of a text encoder's layer in a file; Anima's adapter of texts is the denoiser's there."""
    return f"diffusion_model.{path}" if path.startswith("llm_adapter") else f"text_encoders.{text}.{path}"


def of_text(name: str, folder: Path) -> dict:
    """The same of a text encoder, live and merged."""
    make, tokens = TEXTS[name], torch.arange(12).reshape(2, 6)
    weights = drawn(made(make))
    text, reference = made(make, weights), made(make, {key: w.clone() for key, w in weights.items()})
    layers = {"te": {key[:-7]: tuple(weights[key].shape) for key in linears(text)}}
    spelled = lokr(layers, lambda _, path: spelling(name, path), dora="out")
    adapter = load_adapter(save(spelled, folder / f"{name}.safetensors"))
    merge_adapter(
        reference,
        load_adapter(save(lokr(layers, lambda _, path: path, dora="out"), folder / "bare.safetensors")),
        STRENGTH,
    )
    owner = modules.sd_models.model_data.sd_model = Engine(made(MODELS["Flux.1"][0]), {name: text})
    owner.load()
    with torch.inference_mode():
        base, expected = text(tokens), reference(tokens)
        found, result = HOST.model(), {"none": apart(base, expected), "modules": len(layers["te"])}
        with attach(found.root, adapter, STRENGTH, target=found.target, weight_of=HOST.weight_of) as handle:
            result["refused"], result["live"] = len(handle.report.refused), apart(text(tokens), expected)
        dynamic_args.online_lora = False
        with HOST.merge(found, adapter, lambda module: STRENGTH):
            owner.load()
            result["merge"] = apart(text(tokens), expected)
        with HOST.merge(found, adapter, lambda module: 0.0 if found.is_unet(module) else STRENGTH):
            owner.load()
            result["as text encoder"] = apart(text(tokens), expected)
        owner.load()
        result["left by merge"] = apart(text(tokens), base)
    return result


def main() -> dict:
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        cases = [(name, "plain", dora) for name in MODELS for dora in (None, "out")]
        cases += [("Flux.1", packing, dora) for packing in PACKINGS for dora in (None, "out")]
        for name, packing, dora in cases:
            results[f"{name}, {packing}, {dora}"] = attempt(of_model, name, Path(folder), packing, dora)
        for name in TEXTS:
            results[f"text {name}"] = attempt(of_text, name, Path(folder))
        for online in (False, True):
            for dora in (None, "out"):
                results[f"in turns, {online}, {dora}"] = attempt(in_turns, online, dora, Path(folder))
        results["peak"] = {str(dora): peak(dora, Path(folder)) for dora in (None, "out")}
    return results


def attempt(measure, *arguments) -> dict:
    """What ``measure`` returns; {"error": …} if it raises: the other cases are measured all the same."""
    try:
        return measure(*arguments)
    except Exception:
        return {"error": traceback.format_exc()[-1500:]}


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):  # the host prints
        table = main()
    print(json.dumps(table))
