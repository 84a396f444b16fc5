"""A checkpoint that Forge takes for SD1.5, all of whose UNet is as narrow as its first level, with random weights.

Run by the interpreter of Forge, Forge Neo or reForge in its folder: forge_checkpoint.py FILE
They tell a model by its first level's width, and have fixed configurations of its text encoder and VAE.
"""

from __future__ import annotations

import sys
from pathlib import Path

file = sys.argv[1]
sys.argv[1:] = ["--always-cpu", "--cpu"]
sys.path[:0] = [".", "packages_3rdparty", "modules_forge/packages", "repositories/huggingface_guess"]

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import CLIPTextConfig, CLIPTextModel  # noqa: E402

UNET = dict(
    in_channels=4,
    out_channels=4,
    model_channels=320,
    channel_mult=[1, 1, 1, 1],
    num_res_blocks=[2, 2, 2, 2],
    num_heads=8,
    use_spatial_transformer=True,
    transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
    transformer_depth_middle=1,
    transformer_depth_output=[1] * 9 + [0] * 3,
    context_dim=768,
)
VAE = dict(double_z=True, z_channels=4, resolution=256, in_channels=3, out_ch=3, ch=128, ch_mult=[1, 2, 4, 4])
VAE |= dict(num_res_blocks=2, attn_resolutions=[], dropout=0.0)


def of_forge() -> tuple[torch.nn.Module, torch.nn.Module, str]:
    from backend.nn.unet import IntegratedUNet2DConditionModel
    from backend.nn.vae import IntegratedAutoencoderKL

    configurations = "backend/huggingface/runwayml/stable-diffusion-v1-5"
    vae = IntegratedAutoencoderKL.from_config(IntegratedAutoencoderKL.load_config(f"{configurations}/vae"))
    return IntegratedUNet2DConditionModel(**UNET), vae, f"{configurations}/text_encoder"


def of_reforge() -> tuple[torch.nn.Module, torch.nn.Module, str]:
    from ldm_patched.ldm.models.autoencoder import AutoencoderKL
    from ldm_patched.ldm.modules.diffusionmodules.openaimodel import UNetModel

    unet = UNetModel(image_size=32, legacy=False, use_linear_in_transformer=False, **UNET)
    return unet, AutoencoderKL(embed_dim=4, ddconfig=VAE), "ldm_patched/modules/sd1_clip_config.json"


torch.manual_seed(0)
unet, vae, text = of_forge() if Path("backend").is_dir() else of_reforge()
models = {
    "model.diffusion_model.": unet,
    "first_stage_model.": vae,
    "cond_stage_model.transformer.": CLIPTextModel(CLIPTextConfig.from_pretrained(text)),
}
tensors = {}
for prefix, model in models.items():
    for name, tensor in model.state_dict().items():
        if tensor.ndim > 1:
            tensor = torch.randn(tensor.shape) / (50 if "embedding" in name else tensor[0].numel() ** 0.5)
        else:  # a bias of 0 would leave the text encoder's mean at 0, by which Forge divides
            tensor = torch.ones(tensor.shape) if name.endswith("weight") else torch.rand(tensor.shape) / 10
        tensors[prefix + name] = tensor.half().contiguous()
save_file(tensors, file)
