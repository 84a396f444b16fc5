"""The losses that diffusion models are trained with, as in diffusers' training scripts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._loop import Batch

Loss = Callable[[nn.Module, Batch], Tensor]


def noise_loss(latents: Tensor, prompts: Tensor, scheduler: Any) -> Loss:
    """The loss of a UNet that predicts noise (DDPM, as in ``train_dreambooth.py``).

    latents: (n, channels, height, width); prompts: (n, tokens, width)
    scheduler: diffusers'; its time steps are drawn at random
    """

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        """The mean square error of the predicted noise."""
        clean = latents[batch.indices]
        noise = batch.randn(*clean.shape[1:])
        steps = batch.randint(scheduler.config.num_train_timesteps)
        noisy = scheduler.add_noise(clean, noise, steps)
        device = next(model.parameters()).device
        predicted = model(noisy.to(device), steps.to(device), prompts[batch.indices].to(device)).sample
        return F.mse_loss(predicted.float(), noise.to(device))

    return loss_of


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
