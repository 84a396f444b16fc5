"""Jobs of in_host.py that make small models of ComfyUI's own classes, with random weights."""

from __future__ import annotations

import comfy.ops
import torch
from safetensors.torch import save_file


def random_weights(module: torch.nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A weight for each of ``module``'s, drawn so that activations keep their size; norms are left near 1."""
    found = {}
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            found[name] = tensor.clone()
        elif tensor.ndim > 1:
            scale = 0.02 if "embedding" in name else tensor[0].numel() ** -0.5
            found[name] = (torch.randn(tensor.shape) * scale).to(dtype)
        else:
            near = 1.0 if name.endswith(("weight", "scale")) else 0.0
            found[name] = (near + 0.05 * torch.randn(tensor.shape)).to(dtype)
    return found


def make_sd15(path: str, dtype: str) -> None:
    """A checkpoint that ComfyUI takes for SD1.5, with a UNet of two levels (its width is what makes it SD1.5)."""
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    unet = UNetModel(
        image_size=32,
        in_channels=4,
        out_channels=4,
        model_channels=320,
        num_res_blocks=[1, 1],
        channel_mult=[1, 2],
        num_heads=8,
        use_spatial_transformer=True,
        transformer_depth=[1, 1],
        transformer_depth_output=[1, 1, 1, 1],
        transformer_depth_middle=1,
        context_dim=768,
        legacy=False,
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )
    shape = dict(double_z=True, z_channels=4, resolution=256, in_channels=3, out_ch=3, ch=128, ch_mult=[1, 2, 4, 4])
    vae = AutoencoderKL(embed_dim=4, ddconfig={**shape, "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0})
    clip = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=768, intermediate_size=3072, num_attention_heads=12, projection_dim=768, hidden_act="quick_gelu"
        )
    )
    parts = {
        "model.diffusion_model.": unet,
        "first_stage_model.": vae,
        "cond_stage_model.transformer.text_model.": getattr(clip, "text_model", clip),
    }
    tensors = {}
    for prefix, module in parts.items():
        tensors |= {prefix + name: t for name, t in random_weights(module, getattr(torch, dtype)).items()}
    save_file(tensors, path)


def make_flux(path: str, dtype: str) -> None:
    """A diffusion model that ComfyUI takes for Flux.1, of width 256 with 2 + 2 blocks."""
    from comfy.ldm.flux.model import Flux

    torch.manual_seed(0)
    model = Flux(
        image_model="flux",
        in_channels=16,
        out_channels=16,
        vec_in_dim=768,
        context_in_dim=768,
        hidden_size=256,
        mlp_ratio=4.0,
        num_heads=2,
        depth=2,
        depth_single_blocks=2,
        axes_dim=[16, 56, 56],
        theta=10000,
        patch_size=2,
        qkv_bias=True,
        guidance_embed=True,
        txt_ids_dims=[],
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )
    save_file(random_weights(model, getattr(torch, dtype)), path)


JOBS = {f.__name__: f for f in (make_sd15, make_flux)}
