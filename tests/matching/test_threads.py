"""Where people asked why their LoKr does not load: the modules those threads name find their weights in ComfyUI.

The files themselves, with their scaling, are tested in tests/formats/test_threads.py.
"""

from __future__ import annotations

import pytest
import torch

from lokr_core import resolve
from lokr_core.formats import parse_adapter
from tests.matching.cells import comfyui_target, recorded

# thread -> (recorded architecture, {the file's module: [(ComfyUI's weight, first row in units of the part)]})
THREADS = {
    "ComfyUI #4476": (
        "flux",
        {
            "lycoris_single_transformer_blocks_0_attn_to_q": ["single_blocks.0.linear1"],
            "lycoris_single_transformer_blocks_1_attn_to_k": ["single_blocks.1.linear1"],
            "lycoris_single_transformer_blocks_1_attn_to_v": ["single_blocks.1.linear1"],
        },
    ),
    "ComfyUI #10973, old format": (
        "z_image",
        {
            "lycoris_layers_0_adaLN_modulation_0": ["layers.0.adaLN_modulation.0"],
            "lycoris_layers_1_attention_to_out_0": ["layers.1.attention.out"],
            "lycoris_layers_1_feed_forward_w1": ["layers.1.feed_forward.w1"],
        },
    ),
    "ComfyUI #10973, new format": (
        "z_image",
        {
            "diffusion_model.layers.0.attention.to_q": ["layers.0.attention.qkv"],
            "diffusion_model.layers.1.attention.to_out.0": ["layers.1.attention.out"],
        },
    ),
    "ComfyUI #12084": (
        "flux2_klein",
        {
            "lycoris_transformer_blocks_0_ff_linear_in": ["double_blocks.0.img_mlp.0"],
            "lycoris_transformer_blocks_1_ff_context_linear_out": ["double_blocks.1.txt_mlp.2"],
        },
    ),
    "ComfyUI #12638": (
        "ace_step15",
        {
            "lycoris_condition_embedder": ["decoder.condition_embedder"],
            "lycoris_layers_0_cross_attn_k_proj": ["decoder.layers.0.cross_attn.k_proj"],
            "lycoris_time_embed_time_proj": ["decoder.time_embed.time_proj"],
        },
    ),
    "ComfyUI #15114": (
        "anima",
        {
            "lora_unet_blocks_0_self_attn_q_proj": ["blocks.0.self_attn.q_proj"],
            "lora_unet_blocks_1_mlp_layer2": ["blocks.1.mlp.layer2"],
        },
    ),
    "SimpleTuner #3222": (
        "krea2",
        {
            "lycoris_transformer_blocks_0_attn_to_qkv": [f"blocks.0.attn.w{x}" for x in "qkv"],
            "lycoris_text_fusion_layerwise_blocks_0_attn_to_qkv": [
                f"txtfusion.layerwise_blocks.0.attn.w{x}" for x in "qkv"
            ],
        },
    ),
}


def shape_of(module: str, modules: dict[str, tuple[int, ...]], weights: dict, places: list[str]) -> tuple[int, ...]:
    """The shape of the file's module: of diffusers' module of that name, or of all the weights it is the fusion of."""
    flat = {name.replace(".", "_"): shape for name, shape in modules.items()}
    path = module.removeprefix("lycoris_").removeprefix("lora_unet_").removeprefix("diffusion_model.").replace(".", "_")
    if path in flat:
        return flat[path]
    shapes = [weights[f"{place}.weight"] for place in places]
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


@pytest.mark.parametrize("thread", THREADS)
def test_the_threads_modules_find_their_weights(thread):
    architecture, places = THREADS[thread]
    modules, weights = recorded(architecture)
    tensors = {}
    for module, where in places.items():
        out, columns, *kernel = shape_of(module, modules, weights, where)
        tensors[f"{module}.lokr_w1"] = torch.ones(2, 1)
        tensors[f"{module}.lokr_w2"] = torch.ones(out // 2, columns, *kernel)
        tensors[f"{module}.dora_scale"] = torch.ones(out, *(1,) * (1 + len(kernel)))
        tensors[f"{module}.alpha"] = torch.tensor(10000.0)
    matches, report = resolve(parse_adapter(tensors), comfyui_target(weights))
    assert report.complete, report.text()
    found: dict[str, list[str]] = {}
    for match in matches:
        found.setdefault(match.module, []).append(match.weight.removeprefix("diffusion_model.").removesuffix(".weight"))
    assert found == places
