"""Runs inside Forge's own interpreter, in Forge's folder, and prints a table of what it measured as JSON.

A small Flux of Forge's own class, its weights plain or packed, takes LoKr through ``webui.forge``. What it puts out is
compared with a plain model of the same class whose weights are the unpacked ones with the adapter merged by the core.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

sys.argv[1:] = ["--always-cpu"]
sys.path[:0] = [str(Path(__file__).parents[2]), ".", "packages_3rdparty"]

import gguf  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)
torch.manual_seed(0)

# What the bridge asks of Forge's web UI, which is not here.
modules = ModuleType("modules")
modules.errors = modules.patches = modules.script_callbacks = None
modules.sd_models = SimpleNamespace(model_data=SimpleNamespace(sd_model=None))
sys.modules["modules"] = modules

with contextlib.redirect_stdout(sys.stderr):
    from backend import operations
    from backend.args import dynamic_args
    from backend.diffusion_engine.base import ForgeObjects
    from backend.memory_management import bake_gguf_model
    from backend.nn.clip import IntegratedCLIP
    from backend.nn.flux import IntegratedFluxTransformer2DModel
    from backend.nn.t5 import IntegratedT5
    from backend.operations_gguf import ParameterGGUF, dequantize_tensor
    from backend.patcher.clip import CLIP
    from backend.patcher.unet import UnetPatcher
    from transformers import CLIPTextConfig, CLIPTextModel

from lokr_core import attach, load_adapter, merge_adapter  # noqa: E402
from tests.handle_calls import calls  # noqa: E402
from tests.webui.adapters import kohya, lokr, save, text_layers  # noqa: E402
from webui.forge import HOST  # noqa: E402

WIDTH = 128
FLUX = dict(in_channels=16, vec_in_dim=64, context_in_dim=64, hidden_size=WIDTH, mlp_ratio=4.0, num_heads=4)
FLUX |= dict(depth=2, depth_single_blocks=2, axes_dim=[8, 12, 12], theta=10000, qkv_bias=True, guidance_embed=True)
T5 = dict(num_layers=2, d_model=64, d_ff=128, dense_act_fn="gelu_pytorch_tanh", is_gated_act=True, num_heads=4)
T5 |= dict(model_type="t5", vocab_size=100)

# As diffusers names them: Forge's layers hold q, k and v of a block in one.
SPLIT = {
    f"transformer_blocks.{n}.{name}": shape
    for n in range(2)
    for name, shape in {
        "attn.to_q": (WIDTH, WIDTH),
        "attn.to_v": (WIDTH, WIDTH),
        "attn.add_k_proj": (WIDTH, WIDTH),
        "attn.to_out.0": (WIDTH, WIDTH),
        "ff.net.0.proj": (4 * WIDTH, WIDTH),
        "norm1.linear": (6 * WIDTH, WIDTH),
    }.items()
}
SPLIT |= {
    "single_transformer_blocks.0.attn.to_k": (WIDTH, WIDTH),
    "single_transformer_blocks.1.proj_mlp": (4 * WIDTH, WIDTH),
    "single_transformer_blocks.1.proj_out": (WIDTH, 5 * WIDTH),
}
# As the original names them.
FUSED = {
    "double_blocks.0.img_attn.qkv": (3 * WIDTH, WIDTH),
    "double_blocks.1.txt_mlp.2": (WIDTH, 4 * WIDTH),
    "single_blocks.0.linear1": (7 * WIDTH, WIDTH),
    "single_blocks.1.linear2": (WIDTH, 5 * WIDTH),
    "final_layer.linear": (64, WIDTH),
}
T5_LAYERS = {
    "encoder.block.0.layer.0.SelfAttention.q": (64, 64),
    "encoder.block.1.layer.1.DenseReluDense.wo": (64, 128),
}


def flux(weights: dict[str, torch.Tensor], **arguments):
    with operations.using_forge_operations(device=torch.device("cpu"), dtype=torch.float32, **arguments):
        model = IntegratedFluxTransformer2DModel(**FLUX)
    assert not model.load_state_dict(weights, strict=False).missing_keys
    return model.requires_grad_(False)


def drawn() -> dict[str, torch.Tensor]:
    with torch.device("cpu"):
        plain = IntegratedFluxTransformer2DModel(**FLUX)
    return {
        name: torch.randn(w.shape) / w.shape[1] ** 0.5 if w.ndim > 1 else w + 0.1 * torch.randn(w.shape)
        for name, w in plain.state_dict().items()
    }


WEIGHTS = drawn()


def linears() -> list[str]:
    return [name for name, weight in WEIGHTS.items() if weight.ndim == 2]


def plain():
    return flux(WEIGHTS), WEIGHTS, torch.float32


def fp8():
    packed = {name: WEIGHTS[name].to(torch.float8_e4m3fn) for name in linears()}
    with operations.using_forge_operations(device=torch.device("cpu"), manual_cast_enabled=True, dtype=torch.float32):
        model = IntegratedFluxTransformer2DModel(**FLUX)
    model.load_state_dict(WEIGHTS)
    for name, weight in packed.items():
        model.get_submodule(name[:-7]).weight = torch.nn.Parameter(weight, requires_grad=False)
    return model, WEIGHTS | {name: weight.float() for name, weight in packed.items()}, torch.float8_e4m3fn


def scaled_fp8():
    model, unpacked, dtype = fp8()
    for number, name in enumerate(linears()):
        scale = torch.tensor(0.5 + 0.1 * (number % 7))
        model.get_submodule(name[:-7]).scale_weight = torch.nn.Parameter(scale, requires_grad=False)
        unpacked[name] = unpacked[name] * scale
    return model, unpacked, dtype


def gguf_of(kind: str):
    quantisation = gguf.GGMLQuantizationType[kind]
    packed = dict(WEIGHTS)
    for name in linears():
        data = gguf.quants.quantize(WEIGHTS[name].numpy(), quantisation)
        tensor = SimpleNamespace(data=data, tensor_type=quantisation, shape=list(reversed(WEIGHTS[name].shape)))
        packed[name] = ParameterGGUF(tensor)
    # These Linears take what they are given, which in a file is a parameter.
    packed = {name: w if name in linears() else torch.nn.Parameter(w, False) for name, w in packed.items()}
    model = flux(packed, bnb_dtype="gguf")
    bake_gguf_model(model)
    unpacked = {name: dequantize_tensor(model.get_parameter(name)).float() for name in linears()}
    return model, WEIGHTS | unpacked, "gguf"


def nf4():
    from bitsandbytes.functional import dequantize_4bit

    def unpack(weight):
        return dequantize_4bit(weight, quant_state=weight.quant_state)

    model = flux(WEIGHTS, bnb_dtype="nf4")
    unpacked = dict(WEIGHTS)
    for name in linears():
        layer = model.get_submodule(name[:-7])
        layer.weight = layer.weight._quantize(torch.device("cpu"))
        assert layer.weight.shape != WEIGHTS[name].shape
        unpacked[name] = unpack(layer.weight).float()
    if not torch.cuda.is_available():
        operations.functional_dequantize_4bit = unpack  # Forge's own takes the weight to a GPU for it
    return model, unpacked, "nf4"


KINDS = {"plain": plain, "fp8": fp8, "scaled fp8": scaled_fp8}
KINDS |= {kind: lambda kind=kind: gguf_of(kind) for kind in ("Q8_0", "Q5_0", "Q4_0")}
if operations.bnb_avaliable:
    KINDS["nf4"] = nf4


class Engine:
    """Forge's object of a model, as far as the bridge knows it."""

    def __init__(self, denoiser, storage_dtype):
        denoiser.storage_dtype, denoiser.computation_dtype = storage_dtype, torch.float32
        denoiser.load_device = denoiser.offload_device = denoiser.initial_device = torch.device("cpu")
        texts = CLIPTextConfig(vocab_size=100, hidden_size=64, intermediate_size=256, num_hidden_layers=2)
        texts.num_attention_heads = 4
        text_encoders = {"clip_l": IntegratedCLIP(CLIPTextModel, texts), "t5xxl": IntegratedT5(T5)}
        unet = UnetPatcher.from_model(denoiser, diffusers_scheduler=None, config=None, k_predictor=torch.nn.Identity())
        self.forge_objects = ForgeObjects(unet, CLIP(text_encoders), None, None)
        self.forge_objects_original = self.forge_objects.shallow_copy()
        self.forge_objects_after_applying_lora = self.forge_objects.shallow_copy()


def run(model) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    x, context = torch.randn(2, 16, 8, 8, generator=generator), torch.randn(2, 5, 64, generator=generator)
    with torch.inference_mode():
        return model(x, torch.tensor([0.3, 0.7]), context, torch.ones(2, 64), guidance=torch.tensor([3.5, 3.5]))


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def measure(kind: str, path: Path, strength: float = 0.8) -> dict:
    """Relative distances from the reference of: no adapter, live, merge (patched once), merge (while running)."""
    adapter = load_adapter(path)
    denoiser, unpacked, storage = KINDS[kind]()
    reference = flux({name: weight.clone() for name, weight in unpacked.items()})
    assert apart(run(denoiser), run(reference)) < 0.002, "Forge computes with other weights"
    merge_adapter(reference, adapter, strength)
    expected, base = run(reference), run(denoiser)
    owner = modules.sd_models.model_data.sd_model = Engine(denoiser, storage)
    model = HOST.model()
    result = {"none": apart(base, expected)}
    with attach(model.root, adapter, strength, target=model.target, weight_of=HOST.weight_of) as handle:
        result["refused"] = len(handle.report.refused)
        result["live"] = apart(run(denoiser), expected)
    for name, while_running in (("merge", False), ("merge while running", True)):
        if kind == "nf4" and not while_running and not torch.cuda.is_available():
            continue  # Forge packs anew on a GPU
        dynamic_args["online_lora"] = while_running
        handle = HOST.merge(model, adapter, lambda module: strength)
        owner.forge_objects.unet.refresh_loras()
        result[name] = apart(run(denoiser), expected)
        handle.remove()
        owner.forge_objects.unet.refresh_loras()
        result["left by " + name] = apart(run(denoiser), base)
    return result


def walk(path: Path, while_running: bool) -> list[str]:
    """The list of calls of every handle, on ForgeMergeHandle: what was wrong after which call."""
    adapter, denoiser = load_adapter(path), plain()[0]
    owner = modules.sd_models.model_data.sd_model = Engine(denoiser, "gguf" if while_running else torch.float32)
    dynamic_args["online_lora"] = while_running
    handle = HOST.merge(HOST.model(), adapter, None)
    first, second = handle.places
    names = [module for place in handle.places for p, module in handle._places() if p == place]
    base, wrong = run(denoiser), []
    handle.strength = 0.5
    for call in calls(first, second, names[0]):
        try:
            call.do(handle)
            raised = None
        except Exception as error:
            raised = error
        if (call.error is not None) != (raised is not None) or not isinstance(raised, call.error or type(None)):
            wrong.append(f"{call.what}: raised {raised!r}")
        owner.forge_objects.unet.refresh_loras()
        found = run(denoiser)
        if call.strengths == (0.0, 0.0):
            fits = torch.equal(found, base)
        else:
            reference = flux({name: weight.clone() for name, weight in WEIGHTS.items()})
            factors = dict(zip(names, call.strengths, strict=True))
            merge_adapter(reference, adapter, factors=factors)
            fits = apart(found, run(reference)) < 2e-6
        if not fits:
            wrong.append(f"{call.what}: another output than at strengths {call.strengths}")
    if any(not torch.equal(weight, WEIGHTS[name]) for name, weight in denoiser.state_dict().items()):
        wrong.append("the weights are not those of the start")
    return wrong


def main() -> dict:
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, layers, spelled in (
            ("diffusers", SPLIT, lambda part, path: f"transformer.{path}"),
            ("original", FUSED, kohya),
        ):
            for dora in (None, "out"):
                path = save(lokr({"unet": layers}, spelled, dora=dora), Path(folder) / f"{name} {dora}.safetensors")
                results[path.stem] = {kind: measure(kind, path) for kind in KINDS}
        two = {name: FUSED[name] for name in ("double_blocks.0.img_attn.qkv", "final_layer.linear")}
        for dora in (None, "out"):
            path = save(lokr({"unet": two}, dora=dora), Path(folder) / f"two {dora}.safetensors")
            results[f"walk {dora}"] = {str(online): walk(path, online) for online in (False, True)}
        texts = {"te1": text_layers(64, 2), "te2": T5_LAYERS}
        adapter = load_adapter(save(lokr({**texts, "unet": FUSED}), Path(folder) / "text.safetensors"))
        model = HOST.model()
        with attach(model.root, adapter, target=model.target) as handle:
            results["text encoders"] = [len(handle.report.applied), len(handle.report.refused)]
    return results


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):  # Forge prints
        table = main()
    print(json.dumps(table))
