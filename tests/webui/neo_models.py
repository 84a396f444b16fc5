"""Small models of Forge Neo's own classes, with an input of each: made in Forge Neo's interpreter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from backend.nn import anima, chroma, flux, krea, lumina, qwen, unet, wan
from backend.nn.llm import llama
from torch import Tensor, nn

UNET = dict(in_channels=4, out_channels=4, model_channels=64, channel_mult=[1, 2], num_res_blocks=[1, 1], num_heads=4)
UNET |= dict(use_spatial_transformer=True, transformer_depth=[1, 1], transformer_depth_middle=1, context_dim=64)
UNET |= dict(transformer_depth_output=[1] * 4)
XL = dict(use_linear_in_transformer=True, num_classes="sequential", adm_in_channels=64)
FLUX = dict(in_channels=4, out_channels=4, context_in_dim=64, hidden_size=128, mlp_ratio=4.0, num_heads=4, depth=2)
FLUX |= dict(depth_single_blocks=2, axes_dim=[8, 12, 12], theta=10000, patch_size=2, qkv_bias=True)
FLUX_2 = dict(in_channels=16, out_channels=16, context_in_dim=64, hidden_size=128, mlp_ratio=3.0, num_heads=4, depth=2)
FLUX_2 |= dict(depth_single_blocks=2, axes_dim=[8, 8, 8, 8], theta=2000, patch_size=1, qkv_bias=False, vec_in_dim=None)
FLUX_2 |= dict(guidance_embed=False, global_modulation=True, mlp_silu_act=True, ops_bias=False, txt_ids_dims=[3])
CHROMA = dict(in_channels=16, out_channels=16, context_in_dim=64, hidden_size=128, mlp_ratio=4.0, num_heads=4, depth=2)
CHROMA |= dict(depth_single_blocks=2, axes_dim=[8, 12, 12], theta=10000, patch_size=2, qkv_bias=True, in_dim=64)
CHROMA |= dict(out_dim=128, hidden_dim=64, n_layers=2, txt_ids_dims=[], vec_in_dim=64)
NEXT = dict(patch_size=2, in_channels=4, dim=256, n_layers=2, n_refiner_layers=1, n_heads=8, n_kv_heads=8)
NEXT |= dict(multiple_of=32, ffn_dim_multiplier=2.0, qk_norm=True, cap_feat_dim=64, axes_dims=[8, 12, 12])
NEXT |= dict(axes_lens=[64, 64, 64])
QWEN = dict(in_channels=16, out_channels=4, num_layers=2, attention_head_dim=32, num_attention_heads=4)
QWEN |= dict(joint_attention_dim=64, axes_dims_rope=(8, 12, 12))
WAN = dict(in_dim=4, dim=96, ffn_dim=128, freq_dim=64, text_dim=64, out_dim=4, num_heads=4, num_layers=2)
ANIMA = dict(in_channels=4, out_channels=4, patch_spatial=2, patch_temporal=1, model_channels=96, num_blocks=2)
ANIMA |= dict(crossattn_emb_channels=64, adaln_lora_dim=32, num_heads=4)
KREA = dict(features=128, tdim=64, txtdim=64, heads=4, kvheads=2, layers=2, channels=4, txtlayers=2, txtheads=4)
KREA |= dict(txtkvheads=4)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


PICTURE, VIDEO = (2, 4, 8, 8), (2, 4, 1, 8, 8)
# Name -> (how to make it, the shape of its input, the width of its context, what else its forward takes).
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, dict]] = {
    "SD1.5": (lambda: unet.IntegratedUNet2DConditionModel(**UNET), PICTURE, 64, {}),
    "SDXL": (lambda: unet.IntegratedUNet2DConditionModel(**UNET | XL), PICTURE, 64, {"y": torch.ones(2, 64)}),
    "Flux.1": (
        lambda: flux.IntegratedFluxTransformer2DModel(**FLUX, vec_in_dim=64, guidance_embed=True),
        PICTURE,
        64,
        {"y": torch.ones(2, 64), "guidance": torch.tensor([3.5, 3.5])},
    ),
    "Flux.2 Klein": (lambda: flux.IntegratedFluxTransformer2DModel(**FLUX_2), (2, 16, 8, 8), 64, {}),
    "Chroma": (lambda: chroma.IntegratedChromaTransformer2DModel(**CHROMA), PICTURE, 64, {}),
    "Lumina 2": (lambda: lumina.NextDiT(**NEXT), PICTURE, 64, {"num_tokens": 5}),
    "Z-Image": (
        lambda: lumina.NextDiT(**NEXT, z_image_modulation=True, time_scale=1000.0, pad_tokens_multiple=8),
        PICTURE,
        64,
        {"num_tokens": 5},
    ),
    "Qwen-Image": (lambda: qwen.QwenImageTransformer2DModel(**QWEN), VIDEO, 64, {}),
    "Wan": (lambda: wan.WanModel(**WAN), VIDEO, 64, {}),
    "Anima": (lambda: anima.Anima(**ANIMA), VIDEO, 64, {}),
    "Krea 2": (lambda: krea.SingleStreamDiT(**KREA), PICTURE, 2 * 64, {}),
}


def run(name: str, model: nn.Module) -> Tensor:
    """The model's output for an input of its own."""
    _, shape, width, more = MODELS[name]
    with torch.inference_mode():
        return model(drawn(*shape), torch.tensor([0.3, 0.7]), context=drawn(2, 5, width), **more)


class Decoder(nn.Module):
    """A text encoder of Forge Neo's decoder, which all of its language models are, as small as a test needs."""

    def __init__(self, kind: type):
        super().__init__()
        small = replace(kind(), vocab_size=100, hidden_size=64, intermediate_size=128, num_hidden_layers=2)
        small = replace(small, num_attention_heads=4, num_key_value_heads=2)
        small.head_dim = 16
        self.model = llama.Llama2_(small)

        if kind is llama.Qwen3_06BConfig:  # Anima's, with its adapter of texts
            self.llm_adapter = anima.LLMAdapter(64, 64, 64, num_layers=1, num_heads=4)

    def forward(self, tokens: Tensor) -> Tensor:
        # Not by its own table: the copy of Forge Neo at hand gives that an argument that it does not take.
        out = self.model(None, embeds=self.model.embed_tokens(tokens))[0]
        return self.llm_adapter(out, tokens) if hasattr(self, "llm_adapter") else out


# The name of a text encoder in Forge Neo's CLIP -> how to make it.
TEXTS: dict[str, Callable[[], nn.Module]] = {
    "qwen3": lambda: Decoder(llama.Qwen3_4BConfig),
    "qwen3_06b": lambda: Decoder(llama.Qwen3_06BConfig),
    "qwen25_7b": lambda: Decoder(llama.Qwen25_7BVLI_Config),
    "gemma2": lambda: Decoder(llama.Gemma2_2B_Config),
}
