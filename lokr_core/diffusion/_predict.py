"""One call of each family's denoiser: noisy latents (n, channels, h, w) and times (n,) -> its prediction, (n, …).

text: "prompt" (n, tokens, width) and "pooled" (n, width)
sizes: "ids" (n, 6) for SDXL (original height and width, top and left of the crop, height and width); "guidance" (n,)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Tensors = Mapping[str, Tensor]


def sd(unet: nn.Module, noisy: Tensor, times: Tensor, text: Tensors, sizes: Tensors) -> Tensor:
    return unet(noisy, times, encoder_hidden_states=text["prompt"]).sample


def sdxl(unet: nn.Module, noisy: Tensor, times: Tensor, text: Tensors, sizes: Tensors) -> Tensor:
    added = {"text_embeds": text["pooled"], "time_ids": sizes["ids"].to(noisy.dtype)}
    return unet(noisy, times, encoder_hidden_states=text["prompt"], added_cond_kwargs=added).sample


def sd3(transformer: nn.Module, noisy: Tensor, times: Tensor, text: Tensors, sizes: Tensors) -> Tensor:
    return transformer(
        hidden_states=noisy,
        timestep=times,
        encoder_hidden_states=text["prompt"],
        pooled_projections=text["pooled"],
    ).sample


def flux(transformer: Any, noisy: Tensor, times: Tensor, text: Tensors, sizes: Tensors) -> Tensor:
    height, width = noisy.shape[-2:]
    rows, columns = torch.arange(height // 2), torch.arange(width // 2)
    predicted = transformer(
        hidden_states=packed(noisy),
        timestep=times / 1000,
        guidance=sizes["guidance"] if transformer.config.guidance_embeds else None,
        pooled_projections=text["pooled"],
        encoder_hidden_states=text["prompt"],
        txt_ids=noisy.new_zeros(text["prompt"].shape[1], 3),
        img_ids=torch.cartesian_prod(torch.arange(1), rows, columns).to(noisy),  # (0, row, column) of each token
    ).sample
    return unpacked(predicted, height, width)


def packed(latents: Tensor) -> Tensor:
    """(n, channels, h, w) -> Flux' tokens of 2 × 2 positions, (n, h/2 · w/2, 4 · channels).

    >>> latents = torch.randn(1, 16, 4, 6)
    >>> packed(latents).shape, torch.equal(unpacked(packed(latents), 4, 6), latents)
    (torch.Size([1, 6, 64]), True)
    """
    return F.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """The reverse of ``packed``."""
    return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (height // 2, width // 2)), 2)
