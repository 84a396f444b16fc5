"""A diffusion model small enough for a CPU, made on the spot, that ComfyUI loads as Flux.

It is diffusers' Flux transformer with random weights: nothing is downloaded, and what it paints means nothing. The
names and kinds of its layers are those of the large one, and so is all that happens to an adapter for them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import LoKrError

FLUX_TARGETS = (
    r"(single_)?transformer_blocks\.\d+\.(attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
    r"|ff(_context)?\.net\.(0\.proj|2)|proj_mlp|proj_out)"
)
"""All Linear layers in its blocks, for ``LoKrConfig.target_modules``."""
_CHANNELS = 16  # of Flux' latents
_WIDTH = 768  # of the text embeddings that it takes


def small_flux(seed: int = 0) -> Any:
    """A Flux transformer of 2 + 2 blocks and 7.6 M parameters, a function of ``seed``: a ``FluxTransformer2DModel``.

    ``config.joint_attention_dim`` is the width of the text embeddings that it takes.

    Raises LoKrError if diffusers is not installed.
    """
    try:
        from diffusers import FluxTransformer2DModel
    except ImportError:
        raise LoKrError("This needs diffusers, which is not installed", hint='pip install "diffusers>=0.42"') from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FluxTransformer2DModel(
            patch_size=1,
            in_channels=4 * _CHANNELS,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=128,
            num_attention_heads=2,
            joint_attention_dim=_WIDTH,
            pooled_projection_dim=_WIDTH,
            guidance_embeds=True,
            axes_dims_rope=(16, 56, 56),
        )


def latents_of(pictures: Tensor) -> Tensor:
    """What stands in for a VAE: the mean colours of 4 × 4 pixels, (n, 3, size, size) -> (n, 16, size / 8, size / 8).

    >>> latents_of(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 16, 8, 8])
    """
    small = F.pixel_unshuffle(F.avg_pool2d(pictures, 4), 2)  # (n, 12, size / 8, size / 8)
    return F.pad(small, (0, 0, 0, 0, 0, _CHANNELS - small.shape[1]))
