"""A checkpoint that Forge takes for SD1.5, all of whose UNet is as narrow as its first level, with random weights.

Run by Forge's interpreter in Forge's folder: forge_checkpoint.py FILE
Forge tells a model by its first level's width, and has fixed configurations of its text encoder and VAE.
"""

from __future__ import annotations

import sys

file = sys.argv[1]
sys.argv[1:] = ["--always-cpu"]
sys.path[:0] = [".", "packages_3rdparty", "repositories/huggingface_guess"]

import torch  # noqa: E402
from backend.nn.unet import IntegratedUNet2DConditionModel  # noqa: E402
from backend.nn.vae import IntegratedAutoencoderKL  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import CLIPTextConfig, CLIPTextModel  # noqa: E402

CONFIGURATIONS = "backend/huggingface/runwayml/stable-diffusion-v1-5"

torch.manual_seed(0)
models = {
    "model.diffusion_model.": IntegratedUNet2DConditionModel(
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
    ),
    "first_stage_model.": IntegratedAutoencoderKL.from_config(
        IntegratedAutoencoderKL.load_config(f"{CONFIGURATIONS}/vae")
    ),
    "cond_stage_model.transformer.": CLIPTextModel(CLIPTextConfig.from_pretrained(f"{CONFIGURATIONS}/text_encoder")),
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
