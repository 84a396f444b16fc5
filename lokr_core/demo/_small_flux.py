"""A diffusion model small enough for a CPU, made on the spot, that ComfyUI loads as Flux, for tests and examples.

It is diffusers' Flux transformer with random weights: nothing is downloaded, and what it paints means nothing. The
names and kinds of its layers are those of the large one, and so is all that happens to an adapter for them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..diffusion import find_pictures
from ..training import Batch, needed

Loss = Callable[[nn.Module, Batch], Tensor]

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
    flux = needed("diffusers", "0.42").FluxTransformer2DModel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return flux(
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


def flow_matching_loss(latents: Tensor, prompts: Tensor) -> Loss:
    """The loss of a Flux transformer that predicts the velocity from ``latents`` to noise.

    latents: (n, channels, height, width); prompts: (n, tokens, width)

    Rectified flow; the time is the sigmoid of a normal number, as in ``train_dreambooth_lora_flux.py``.
    """
    images = F.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)  # (n, tokens, 4 · channels), of 2 × 2 positions
    rows, columns = torch.arange(latents.shape[2] // 2), torch.arange(latents.shape[3] // 2)
    positions = torch.cartesian_prod(torch.arange(1), rows, columns).float()  # (0, row, column) of each token

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        """The mean square error of the predicted velocity."""
        clean = images[batch.indices]
        noise = batch.randn(*clean.shape[1:])
        time = batch.randn(1).sigmoid()  # (examples, 1)
        noisy = (1 - time[..., None]) * clean + time[..., None] * noise
        device = next(model.parameters()).device
        prompt = prompts[batch.indices].to(device)
        predicted = model(
            hidden_states=noisy.to(device),
            timestep=time.flatten().to(device),
            guidance=torch.full((len(clean),), 3.5, device=device),
            pooled_projections=prompt.mean(1),
            encoder_hidden_states=prompt,
            txt_ids=torch.zeros(prompt.shape[1], 3, device=device),
            img_ids=positions.to(device),
        ).sample
        return F.mse_loss(predicted.float(), (noise - clean).to(device))

    return loss_of


def load_pictures(folder: str | os.PathLike, size: int) -> tuple[Tensor, list[str]]:
    """The pictures of a folder, cut to squares, (n, 3, size, size) in -1 … 1, and their captions.

    Raises as ``find_pictures`` does.
    """
    pictures = [replace(picture, bucket=(size, size)) for picture in find_pictures(folder, size)]
    return torch.stack([picture.pixels() for picture in pictures]), [picture.caption for picture in pictures]


def prompt_embedding(captions: Sequence[str], width: int, tokens: int = 8) -> Tensor:
    """Random numbers in place of a text encoder's output, a function of each word: (captions, tokens, width).

    >>> red, blue = prompt_embedding(["a red house", "A blue house"], 4)
    >>> torch.equal(red[0], blue[0]), torch.equal(red[1], blue[1])
    (True, False)
    """
    rows = []
    for caption in captions:
        words = (caption.lower().split() + [""] * tokens)[:tokens]
        seeds = [int.from_bytes(hashlib.sha256(word.encode()).digest()[:7], "little") for word in words]
        rows.append(torch.stack([torch.randn(width, generator=torch.Generator().manual_seed(s)) for s in seeds]))
    return torch.stack(rows)
