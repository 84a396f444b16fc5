"""Files made by LyCORIS, through LoKrLoader, in a real ComfyUI: every patched weight is the one LyCORIS trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

lycoris = pytest.importorskip("lycoris", reason="lycoris-lora is the expected value of these tests")

SD15_LAYERS = (
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k",
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_ff_net_0_proj",
    "lora_unet_down_blocks_0_attentions_0_proj_in",
    "lora_unet_down_blocks_0_resnets_0_conv1",
    "lora_unet_down_blocks_0_downsamplers_0_conv",
    "lora_unet_up_blocks_0_resnets_0_conv_shortcut",
    "lora_unet_mid_block_resnets_0_time_emb_proj",
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj",
    "lora_te_text_model_encoder_layers_11_mlp_fc1",
)
FLUX_LAYERS = (
    "lora_unet_double_blocks_0_img_attn_qkv",
    "lora_unet_double_blocks_1_txt_mlp_0",
    "lora_unet_single_blocks_0_linear1",
    "lora_unet_single_blocks_1_linear2",
    "lora_unet_img_in",
    "lora_unet_final_layer_adaLN_modulation_1",
)
# In diffusers' names, so that they point to rows of a fused weight, and to one whose halves are swapped.
FLUX_SLICES = (
    "lycoris_transformer_blocks_0_attn_to_q",
    "lycoris_transformer_blocks_0_attn_to_v",
    "lycoris_single_transformer_blocks_1_attn_to_k",
    "lycoris_single_transformer_blocks_1_proj_mlp",
    "lycoris_norm_out_linear",
)
WHOLE = {"lora_dim": 100000, "factor": 8}
LOW_RANK = {"lora_dim": 4, "factor": 8}
BOTH = {"lora_dim": 3, "factor": -1, "decompose_both": True}
DORA_OUT = {"weight_decompose": True, "wd_on_out": True}
DORA_IN = {"weight_decompose": True, "wd_on_out": False}

# file -> (model, its layers, LyCORIS arguments, strength)
FILES = {
    "sd15-whole": ("sd15-float16", SD15_LAYERS, WHOLE, 1.0),
    "sd15-low-rank": ("sd15-float16", SD15_LAYERS, LOW_RANK, 0.7),
    "sd15-tucker-dora-in": ("sd15-float16", SD15_LAYERS, {**BOTH, **DORA_IN, "use_tucker": True}, 1.0),
    "sd15-both-dora-out": ("sd15-float16", SD15_LAYERS, {**BOTH, **DORA_OUT}, -0.5),
    "flux-whole": ("flux-bfloat16", FLUX_LAYERS, WHOLE, 1.0),
    "flux-low-rank-dora-out": ("flux-float32", FLUX_LAYERS, {**LOW_RANK, **DORA_OUT}, 0.6),
    "flux-both-dora-in": ("flux-float16", FLUX_LAYERS, {**BOTH, **DORA_IN}, 1.0),
    "flux-slices": ("flux-float32", FLUX_SLICES, LOW_RANK, 0.8),
    "flux-slices-dora-out": ("flux-float16", FLUX_SLICES, {**WHOLE, **DORA_OUT}, 1.0),
    "flux-slices-dora-in": ("flux-float32", FLUX_SLICES, {**BOTH, **DORA_IN}, 1.0),
}
STRENGTH = {name: strength for name, (*_, strength) in FILES.items()}


def swap_halves(tensor: torch.Tensor) -> torch.Tensor:
    first, second = tensor.chunk(2)
    return torch.cat((second, first))


class Weights:
    """A model file's weights under ComfyUI's keys, and the rows that a name of ComfyUI's stands for."""

    def __init__(self, path: Path, names: dict):
        self.names = names
        with safe_open(str(path), "pt") as file:
            self.tensors = {self._key(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    @staticmethod
    def _key(name: str) -> str:
        for prefix, key in (("model.diffusion_model.", "diffusion_model."), ("cond_stage_model.", "clip_l.")):
            if name.startswith(prefix):
                return key + name[len(prefix) :]
        return f"diffusion_model.{name}"

    def rows(self, name: str) -> tuple[str, slice, bool]:
        key, rows, swapped = self.names[name], slice(None), False
        if isinstance(key, list):
            key, part, swapped = key
            if part is not None:
                axis, start, length = part
                assert axis == 0
                rows = slice(start, start + length)
        return key, rows, swapped


def train(weights: Weights, layers: tuple[str, ...], arguments: dict, path: Path) -> dict[str, torch.Tensor]:
    """Let LyCORIS make and save a network for ``layers``; returns update W' - W per layer, in fp64."""
    tree = nn.Module()
    for name in layers:
        key, rows, swapped = weights.rows(name)
        weight = weights.tensors[key][rows].float()
        weight = swap_halves(weight) if swapped else weight
        out, columns, *kernel = weight.shape
        layer = nn.Conv2d(columns, out, kernel, padding=kernel[0] // 2) if kernel else nn.Linear(columns, out)
        layer.weight.data.copy_(weight)
        tree.add_module(name, layer)
    tree.double()
    lycoris.LycorisNetwork.apply_preset({"target_module": ["Linear", "Conv2d"], "lora_prefix": "x"})
    arguments = {"alpha": 2.0, **arguments}
    rank = arguments["lora_dim"]
    network = lycoris.LycorisNetwork(tree, conv_lora_dim=rank, conv_alpha=2.0, network_module="lokr", **arguments)
    lycoris.LycorisNetwork.apply_preset({"lora_prefix": "lycoris"})
    network.double()
    updates, tensors = {}, {}
    with torch.no_grad():
        for module in network.loras:
            for parameter_name, parameter in module.named_parameters():
                if parameter_name == "dora_scale":
                    parameter.mul_(1 + 0.3 * torch.rand_like(parameter))
                else:
                    parameter.normal_(std=0.3)
            name = module.lora_name[len("x_") :]
            base = module.org_module[0].weight
            merged = base + module.get_weight(base.shape) * module.scalar
            if module.wd:
                merged = module.apply_weight_decompose(merged)
            updates[name] = merged - base
            tensors |= {f"{name}.{part}": t.float().contiguous() for part, t in module.custom_state_dict().items()}
    assert len(updates) == len(layers)
    save_file(tensors, str(path))
    return updates


@pytest.fixture(scope="module")
def results(comfyui, tmp_path_factory):
    """Every file of FILES through LoKrLoader: name -> (dtype, expected weights, what ComfyUI had)."""
    base = tmp_path_factory.mktemp("comfyui")
    models = {"sd15-float16": base / "models/checkpoints/sd15-float16.safetensors"}
    for dtype in ("float32", "float16", "bfloat16"):
        models[f"flux-{dtype}"] = base / f"models/diffusion_models/flux-{dtype}.safetensors"
    jobs = [{"do": f"make_{n.split('-')[0]}", "path": str(p), "dtype": n.split("-")[1]} for n, p in models.items()]
    comfyui_dirs = [p.parent for p in models.values()]
    for folder in comfyui_dirs:
        folder.mkdir(parents=True, exist_ok=True)
    jobs += [{"do": "names", "model": str(p), "out": str(base / f"{n}.json")} for n, p in models.items()]
    comfyui.run(base, *jobs)

    weights = {n: Weights(p, json.loads((base / f"{n}.json").read_text())) for n, p in models.items()}
    expected, jobs = {}, []
    for seed, (file, (model, layers, arguments, strength)) in enumerate(FILES.items()):
        torch.manual_seed(seed)
        updates = train(weights[model], layers, arguments, base / f"models/loras/{file}.safetensors")
        expected[file] = whole = {}
        for name, update in updates.items():
            key, rows, swapped = weights[model].rows(name)
            whole.setdefault(key, weights[model].tensors[key].double())
            whole[key] = whole[key].clone()
            whole[key][rows] += strength * (swap_halves(update) if swapped else update)
        reference = base / f"{file}.reference.safetensors"
        save_file({key: t.float().contiguous() for key, t in whole.items()}, str(reference))
        jobs.append(
            {
                "do": "through_loader",
                "model": str(models[model]),
                "lokr": f"{file}.safetensors",
                "strength": strength,
                "out": str(base / f"{file}.out.safetensors"),
                "reference": str(reference),
            }
        )
    comfyui.run(base, *jobs)
    return {
        file: (
            getattr(torch, FILES[file][0].split("-")[1]),
            expected[file],
            load_file(str(base / f"{file}.out.safetensors")),
            (base / f"{file}.out.txt").read_text(),
        )
        for file in FILES
    }


@pytest.mark.parametrize("file", FILES)
def test_every_patched_weight_is_what_lycoris_trained(results, file):
    dtype, expected, found, report = results[file]
    patched = {name[len("weight.") :]: t for name, t in found.items() if name.startswith("weight.")}
    assert set(patched) == set(expected)
    for key, weight in expected.items():
        assert patched[key].dtype == dtype
        eps = torch.finfo(dtype).eps
        # Half precision rounds once (eps / 2); where fp32 sums stand close to a tie, the neighbour is as good.
        torch.testing.assert_close(patched[key].double(), weight, rtol=max(eps, 1e-5), atol=max(eps, 1e-5) * 1e-2)
    layers = FILES[file][1]
    assert report.startswith(f"{len(layers)} of {len(layers)} modules applied")


@pytest.mark.parametrize("file", FILES)
def test_sampling_gives_what_the_trained_weights_give(results, file):
    _, _, found, _ = results[file]

    def distance(a, b):
        return ((a - b).norm() / b.norm()).item()

    assert distance(found["sampled"], found["base"]) > 1e-3
    assert distance(found["sampled"], found["reference"]) < distance(found["base"], found["reference"]) * 1e-2
