"""Checkpoints of SD1.5's, SD2's and SDXL's layout that are small, with the configuration that A1111 reads beside them.

Run by A1111's interpreter in A1111's folder: tiny_checkpoints.py FOLDER [sd15] [sd2] [sdxl] [refiner]
The text encoders keep the layout of the real ones (SD1.5's its size too: A1111 reads it from a fixed configuration).
Weights are drawn as a layer's usual initialisation would, so that activations keep their size. Biases are not 0: behind
a norm without one the mean of an encoded prompt is 0, and A1111 divides by it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path[:0] = [f"repositories/{name}" for name in ("stable-diffusion-stability-ai", "generative-models")]

VAE = {
    "target": "ldm.models.autoencoder.AutoencoderKL",
    "params": {
        "embed_dim": 4,
        "monitor": "val/rec_loss",
        "ddconfig": dict(
            double_z=True,
            z_channels=4,
            resolution=256,
            in_channels=3,
            out_ch=3,
            ch=32,
            ch_mult=[1, 2, 2, 2],
            num_res_blocks=1,
            attn_resolutions=[],
            dropout=0.0,
        ),
        "lossconfig": {"target": "torch.nn.Identity"},
    },
}
UNET = dict(in_channels=4, out_channels=4, model_channels=64, num_res_blocks=2, use_spatial_transformer=True)
UNET |= dict(use_checkpoint=False, legacy=False)


def latent_diffusion(text_encoder: dict, unet: dict) -> dict:
    """The configuration of SD1.5 or SD2."""
    parameters = dict(linear_start=0.00085, linear_end=0.0120, num_timesteps_cond=1, timesteps=1000)
    parameters |= dict(first_stage_key="jpg", cond_stage_key="txt", image_size=64, channels=4, use_ema=False)
    parameters |= dict(cond_stage_trainable=False, conditioning_key="crossattn", scale_factor=0.18215)
    unet = UNET | dict(image_size=32, attention_resolutions=[4, 2, 1], channel_mult=[1, 2, 4, 4]) | unet
    parameters["unet_config"] = {
        "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
        "params": unet | {"transformer_depth": 1},
    }
    parameters |= {"first_stage_config": VAE, "cond_stage_config": text_encoder}
    return {"model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": parameters}}


def diffusion_engine(embedders: list[dict], unet: dict) -> dict:
    """The configuration of SDXL or its refiner."""
    denoiser = {
        "num_idx": 1000,
        "weighting_config": {"target": "sgm.modules.diffusionmodules.denoiser_weighting.EpsWeighting"},
        "scaling_config": {"target": "sgm.modules.diffusionmodules.denoiser_scaling.EpsScaling"},
        "discretization_config": {"target": "sgm.modules.diffusionmodules.discretizer.LegacyDDPMDiscretization"},
    }
    unet = UNET | dict(num_classes="sequential", num_head_channels=32, use_linear_in_transformer=True) | unet
    parameters = {
        "scale_factor": 0.13025,
        "disable_first_stage_autocast": True,
        "denoiser_config": {"target": "sgm.modules.diffusionmodules.denoiser.DiscreteDenoiser", "params": denoiser},
        "network_config": {
            "target": "sgm.modules.diffusionmodules.openaimodel.UNetModel",
            "params": unet | {"spatial_transformer_attn_type": "softmax"},
        },
        "conditioner_config": {"target": "sgm.modules.GeneralConditioner", "params": {"emb_models": embedders}},
        "first_stage_config": {**VAE, "target": "sgm.models.autoencoder.AutoencoderKLInferenceWrapper"},
    }
    return {"model": {"target": "sgm.models.diffusion.DiffusionEngine", "params": parameters}}


def sizes(*names: str) -> list[dict]:
    target = "sgm.modules.encoders.modules.ConcatTimestepEmbedderND"
    return [{"is_trainable": False, "input_key": name, "target": target, "params": {"outdim": 256}} for name in names]


CLIP_L = {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder"}
OPEN_CLIP = {
    "target": "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder",
    "params": {"arch": "ViT-B-32", "freeze": True, "layer": "penultimate"},
}
SGM_CLIP_L = {
    "is_trainable": False,
    "input_key": "txt",
    "target": "sgm.modules.encoders.modules.FrozenCLIPEmbedder",
    "params": {"layer": "hidden", "layer_idx": 11},
}
SGM_OPEN_CLIP = {
    "is_trainable": False,
    "input_key": "txt",
    "target": "sgm.modules.encoders.modules.FrozenOpenCLIPEmbedder2",
    "params": {
        "arch": "ViT-B-32",
        "version": "laion2b_s34b_b79k",
        "freeze": True,
        "layer": "penultimate",
        "always_return_pooled": True,
        "legacy": False,
    },
}
CONFIGURATIONS = {
    "sd15": latent_diffusion(CLIP_L, {"num_heads": 8, "context_dim": 768}),
    "sd2": latent_diffusion(
        OPEN_CLIP, {"num_head_channels": 32, "use_linear_in_transformer": True, "context_dim": 512}
    ),
    "sdxl": diffusion_engine(
        [SGM_CLIP_L, SGM_OPEN_CLIP, *sizes("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")],
        dict(
            adm_in_channels=512 + 6 * 256,
            attention_resolutions=[4, 2],
            channel_mult=[1, 2, 4],
            transformer_depth=[0, 2, 3],
            context_dim=768 + 512,
        ),
    ),
    "refiner": diffusion_engine(
        [SGM_OPEN_CLIP, *sizes("original_size_as_tuple", "crop_coords_top_left", "aesthetic_score")],
        dict(
            adm_in_channels=512 + 5 * 256,
            attention_resolutions=[4, 2],
            channel_mult=[1, 2, 4, 4],
            transformer_depth=2,
            context_dim=512,
        ),
    ),
}
CONFIGURATIONS["refiner"]["model"]["params"]["conditioner_config"]["params"]["emb_models"][-1]["params"] = {
    "outdim": 256
}


def weights(module: torch.nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    """Random weights of ``module`` under their names in a checkpoint."""
    drawn = {}
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point() or name.endswith(("logit_scale", "attn_mask")):
            drawn[prefix + name] = tensor.clone()
        elif tensor.ndim > 1:
            size = tensor[0].numel() ** 0.5 if "embedding" not in name else 50
            drawn[prefix + name] = torch.randn(tensor.shape) / size
        else:
            drawn[prefix + name] = (
                torch.ones(tensor.shape) if name.endswith("weight") else torch.rand(tensor.shape) / 10
            )
    return drawn


def open_clip_text() -> torch.nn.Module:
    import open_clip

    model, _, _ = open_clip.create_model_and_transforms("ViT-B-32", device="cpu", pretrained=None)
    del model.visual
    return model


def clip_l_text() -> torch.nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig.from_pretrained("openai/clip-vit-large-patch14"))


def make(kind: str, path: Path) -> None:
    import yaml
    from ldm.util import instantiate_from_config

    torch.manual_seed(0)
    configuration = CONFIGURATIONS[kind]
    parameters = configuration["model"]["params"]
    xl = "network_config" in parameters
    if xl:
        from sgm.util import instantiate_from_config

    tensors = weights(
        instantiate_from_config(parameters["network_config" if xl else "unet_config"]), "model.diffusion_model."
    )
    tensors |= weights(instantiate_from_config(parameters["first_stage_config"]), "first_stage_model.")
    if kind == "sd15":
        tensors |= weights(clip_l_text(), "cond_stage_model.transformer.")
    elif kind == "sd2":
        tensors |= weights(open_clip_text(), "cond_stage_model.model.")
    elif kind == "sdxl":
        tensors |= weights(clip_l_text(), "conditioner.embedders.0.transformer.")
        tensors |= weights(open_clip_text(), "conditioner.embedders.1.model.")
    else:
        tensors |= weights(open_clip_text(), "conditioner.embedders.0.model.")
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    tensors |= {"alphas_cumprod": torch.cumprod(1 - betas, 0).float(), "betas": betas.float()}
    stored = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, str(path))
    path.with_suffix(".yaml").write_text(yaml.safe_dump(configuration))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for kind in sys.argv[2:] or CONFIGURATIONS:
        make(kind, folder / f"tiny-{kind}.safetensors")
