"""Runs inside reForge's own interpreter, in its folder, and prints a table of what it measured as JSON.

A small UNet of reForge's class in reForge's patcher takes LoKr through ``webui.reforge``, beside patches as its own
Lora extension makes them. What it puts out is compared with that of plain weights with the adapter merged by the core.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

sys.argv[1:] = ["--always-cpu"]
sys.path[:0] = [str(Path(__file__).parents[2]), "."]

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

torch.set_num_threads(1)

# What the bridge asks of the web UI, which is not here.
modules = ModuleType("modules")
modules.errors = modules.patches = modules.script_callbacks = None
modules.sd_models = SimpleNamespace(model_data=SimpleNamespace(sd_model=None))
sys.modules["modules"] = modules

with contextlib.redirect_stdout(sys.stderr):
    from ldm_patched.modules import options

    options.enable_args_parsing()
    import ldm_patched.modules.ops as ops
    from ldm_patched.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from ldm_patched.modules.model_patcher import ModelPatcher

from lokr_core import attach, load_adapter, merge_adapter  # noqa: E402
from tests.webui.adapters import attention, lokr, save  # noqa: E402
from webui.reforge import HOST  # noqa: E402

STRENGTH, WIDTH = 0.8, 64
UNET = dict(image_size=32, in_channels=4, out_channels=4, model_channels=WIDTH, num_res_blocks=[1, 1], num_heads=4)
UNET |= dict(channel_mult=[1, 1], use_spatial_transformer=True, context_dim=64, legacy=False)
UNET |= dict(transformer_depth=[1, 1], transformer_depth_output=[1] * 4, transformer_depth_middle=1)
LAYERS = {path.replace("x.", "middle_block.1."): shape for path, shape in attention("x", WIDTH, 64).items()}
LAYERS |= {"input_blocks.1.0.in_layers.2": (WIDTH, WIDTH, 3, 3), "output_blocks.0.0.emb_layers.1": (WIDTH, 4 * WIDTH)}


class Base(nn.Module):
    """reForge's object of a denoiser, as far as its patcher and the bridge know it."""

    def __init__(self, operations: type, dtype: torch.dtype, weights: dict[str, Tensor]):
        super().__init__()
        self.diffusion_model = UNetModel(dtype=dtype, operations=operations, **UNET)
        self.diffusion_model.load_state_dict(weights)
        self.requires_grad_(False)
        self.device = torch.device("cpu")


def drawn() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {name: w.shape for name, w in UNetModel(operations=ops.disable_weight_init, **UNET).state_dict().items()}
    return {
        name: torch.randn(shape, generator=generator) / max(1, torch.Size(shape[1:]).numel()) ** 0.5
        if len(shape) > 1
        else torch.ones(shape) + 0.1 * torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
    }


WEIGHTS = drawn()


def run(model: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x, context = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 64, generator=generator)
    with torch.inference_mode():
        return model.diffusion_model(x, torch.tensor([3.0, 7.0]), context=context)


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


class Engine:
    """reForge's object of a model."""

    def __init__(self, model: Base):
        cpu = torch.device("cpu")
        self.forge_objects = SimpleNamespace(unet=ModelPatcher(model, cpu, cpu), clip=None)
        self.forge_objects_original = SimpleNamespace(**vars(self.forge_objects))
        self.forge_objects_after_applying_lora = SimpleNamespace(**vars(self.forge_objects))
        self.little_memory = False

    def load(self) -> None:
        """As reForge does before it runs the model; with little memory a layer is patched each time that it runs."""
        self.forge_objects.unet.partially_load(torch.device("cpu"), 1 if self.little_memory else 1e32)

    def lora(self, strength: float) -> None:
        """What its Lora extension does when the tags have changed; 0: none is left."""
        self.forge_objects.unet = self.forge_objects_original.unet
        if strength:
            generator = torch.Generator().manual_seed(5)
            patches = {
                f"diffusion_model.{name}.weight": ("diff", (torch.randn(shape, generator=generator) / 20,))
                for name, shape in LAYERS.items()
            }
            self.forge_objects.unet = self.forge_objects.unet.clone()
            self.forge_objects.unet.add_patches(patches, strength)
        self.forge_objects_after_applying_lora = SimpleNamespace(**vars(self.forge_objects))


STORAGE = {"fp32": (ops.disable_weight_init, torch.float32), "fp8": (ops.manual_cast, torch.float8_e4m3fn)}


def measure(storage: str, little_memory: bool, path: Path) -> dict:
    """Relative distances from the reference, in the orders in which the two parties come and go."""
    operations, dtype = STORAGE[storage]
    adapter = load_adapter(path)
    stored = {name: w.to(dtype).float() for name, w in WEIGHTS.items()}
    references = {}
    for name in ("none", "ours", "theirs", "both"):
        reference = Base(ops.disable_weight_init, torch.float32, stored)
        if name in ("ours", "both"):
            merge_adapter(reference, adapter, STRENGTH)
        if name in ("theirs", "both"):
            engine = Engine(reference)
            engine.lora(1.0)
            engine.load()
        references[name] = run(reference)
    model = Base(operations, dtype, WEIGHTS)
    owner = modules.sd_models.model_data.sd_model = Engine(model)
    owner.little_memory = little_memory
    owner.load()
    base = run(model)
    found, result = HOST.model(), {"host": apart(base, references["none"]), "ours": apart(base, references["ours"])}
    result["theirs"] = apart(references["theirs"], references["none"])

    def off(name: str) -> float:
        owner.load()
        return apart(run(model), references[name])

    with attach(found.root, adapter, STRENGTH, target=found.target, weight_of=HOST.weight_of) as handle:
        result["refused"], result["live"] = len(handle.report.refused), off("ours")
        owner.lora(1.0)
        result["live beside theirs"] = off("both")
        owner.lora(0)
    for first in ("ours", "theirs"):
        steps = {}
        if first == "theirs":
            owner.lora(1.0)
        handle = HOST.merge(found, adapter, lambda module: STRENGTH)
        if first == "ours":
            steps["ours alone at first"] = off("ours")
            owner.lora(1.0)
        steps["both"] = off("both")
        owner.lora(0)
        steps["ours alone"] = off("ours")
        owner.lora(1.0)
        handle.remove()
        steps["theirs alone"] = off("theirs")
        owner.lora(0)
        owner.load()
        steps["left"] = apart(run(model), base)
        result[f"{first} first"] = steps
    with HOST.merge(found, adapter, lambda module: STRENGTH) as handle:
        for strength in (0.1, 0.2, 0.3):
            handle.strength = strength
        result["kept"] = kept(owner.forge_objects.unet)
    result["weights"] = all(
        torch.equal(w.float(), stored[name]) for name, w in model.diffusion_model.state_dict().items()
    )
    return result


def kept(patcher: ModelPatcher | None) -> int:
    """How many patchers a patcher keeps."""
    return 0 if patcher is None else 1 + kept(patcher.parent)


def main() -> dict:
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for dora in (None, "out"):
            tensors = lokr({"unet": LAYERS}, lambda _, path: f"diffusion_model.{path}", dora=dora)
            path = save(tensors, Path(folder) / f"{dora}.safetensors")
            for storage in STORAGE:
                for little_memory in (False, True):
                    results[f"{storage}, {little_memory}, {dora}"] = measure(storage, little_memory, path)
    return results


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):  # the host prints
        table = main()
    print(json.dumps(table))
