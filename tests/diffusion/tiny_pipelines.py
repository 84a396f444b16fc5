"""Pipelines of diffusers of the four families, small enough to train in seconds: random weights, words as tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

FAMILIES = ("sd", "sdxl", "sd3", "flux")
WORDS = ("a", "red", "blue", "green", "picture", "of", "house", "style")
_START, _END = "<|startoftext|>", "<|endoftext|>"
_CLIP = dict(
    vocab_size=len(WORDS) + 2, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
    projection_dim=24, max_position_embeddings=16, bos_token_id=0, eos_token_id=1, pad_token_id=1,
)  # fmt: skip
_T5 = dict(vocab_size=len(WORDS) + 3, d_model=40, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
_UNET = dict(
    sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(64, 128),
    attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
)  # fmt: skip
_XL = dict(
    use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=6 * 8 + 24,
)  # fmt: skip


def clip_tokenizer() -> Any:
    vocab = {_START: 0, _END: 1} | {f"{word}</w>": number for number, word in enumerate(WORDS, 2)}
    return transformers.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=16)


def t5_tokenizer() -> Any:
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{word}", -1.0) for word in WORDS)]
    return transformers.T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=24)


def clip(projected: bool = True) -> Any:
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return kind(transformers.CLIPTextConfig(**_CLIP))


def t5() -> Any:
    return transformers.T5EncoderModel(transformers.T5Config(**_T5))


def vae(channels: int, **config: Any) -> Any:
    """Two scales: latents are a fourth of the picture's sides. As in a trained one, they have little noise."""
    model = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8), latent_channels=channels, norm_num_groups=4, sample_size=32,
        down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3, **config,
    )  # fmt: skip
    last = model.quant_conv or model.encoder.conv_out
    with torch.no_grad():
        last.bias[channels:] -= 8  # the logarithm of the noise's variance
    return model


def unet(width: int, **config: Any) -> Any:
    return diffusers.UNet2DConditionModel(**{**_UNET, "cross_attention_dim": width, **config})


def pipeline(family: str, **scheduler: Any) -> Any:
    """A pipeline of a family, in eval mode. ``scheduler``: its configuration."""
    torch.manual_seed(0)
    pipe = _pipeline(family, **scheduler)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return pipe


def _pipeline(family: str, **scheduler: Any) -> Any:
    first = dict(text_encoder=clip(family in ("sdxl", "sd3")), tokenizer=clip_tokenizer())
    second = dict(text_encoder_2=clip(), tokenizer_2=clip_tokenizer())
    if family in ("sd", "sdxl"):
        betas = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
        noise = diffusers.DDIMScheduler(**betas, clip_sample=False, set_alpha_to_one=False, **scheduler)
        if family == "sdxl":
            first["text_encoder"] = clip(False)
            parts = dict(unet=unet(64, **_XL), vae=vae(4, scaling_factor=0.13), scheduler=noise)
            return diffusers.StableDiffusionXLPipeline(**first, **second, **parts)
        parts = dict(unet=unet(32), vae=vae(4), scheduler=noise, safety_checker=None, feature_extractor=None)
        return diffusers.StableDiffusionPipeline(**first, **parts, requires_safety_checker=False)
    parts = dict(vae=vae(16, scaling_factor=3.0, shift_factor=0.02, use_quant_conv=False, use_post_quant_conv=False))
    if family == "sd3":
        parts["scheduler"] = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, **scheduler)
        parts["transformer"] = diffusers.SD3Transformer2DModel(
            sample_size=16, in_channels=16, out_channels=16, num_layers=2, attention_head_dim=64,
            num_attention_heads=2, joint_attention_dim=64, caption_projection_dim=128, pooled_projection_dim=48,
            pos_embed_max_size=12,
        )  # fmt: skip
        third = dict(text_encoder_3=t5(), tokenizer_3=t5_tokenizer())
        third["text_encoder_3"] = transformers.T5EncoderModel(transformers.T5Config(**{**_T5, "d_model": 64}))
        return diffusers.StableDiffusion3Pipeline(**first, **second, **third, **parts)
    parts["scheduler"] = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **scheduler)
    parts["transformer"] = diffusers.FluxTransformer2DModel(
        in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=128, num_attention_heads=1,
        joint_attention_dim=40, pooled_projection_dim=32, guidance_embeds=True, axes_dims_rope=(16, 56, 56),
    )  # fmt: skip
    return diffusers.FluxPipeline(**first, text_encoder_2=t5(), tokenizer_2=t5_tokenizer(), **parts)


def saved(family: str, folder: Path, **scheduler: Any) -> Path:
    """The folder of a pipeline of a family."""
    pipeline(family, **scheduler).save_pretrained(folder)
    return folder
