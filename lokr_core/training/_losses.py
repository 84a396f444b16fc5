"""What diffusion models are trained on: the error of their guess at the noise, as in diffusers' training scripts."""

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
    """The loss of a UNet that guesses the noise in ``latents`` (n, channels, height, width) under ``prompts`` (n,
    tokens, width), at a step of diffusers' ``scheduler`` drawn at random (DDPM; as in ``train_dreambooth.py``)."""

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        """The mean square between the noise and the model's guess of it."""
        clean = latents[batch.indices]
        noise = batch.randn(*clean.shape[1:])
        steps = batch.randint(scheduler.config.num_train_timesteps)
        noisy = scheduler.add_noise(clean, noise, steps)
        device = next(model.parameters()).device
        guess = model(noisy.to(device), steps.to(device), prompts[batch.indices].to(device)).sample
        return F.mse_loss(guess.float(), noise.to(device))

    return loss_of


def flow_matching_loss(latents: Tensor, prompts: Tensor) -> Loss:
    """The loss of a Flux transformer that guesses the velocity from ``latents`` (n, channels, height, width) to noise
    (rectified flow; the time is a sigmoid of a normal number, as in ``train_dreambooth_lora_flux.py``)."""
    tokens = _packed(latents)
    places = _places(latents.shape[2] // 2, latents.shape[3] // 2)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        """The mean square between the velocity and the model's guess of it."""
        clean = tokens[batch.indices]
        noise = batch.randn(*clean.shape[1:])
        time = batch.randn(1).sigmoid()
        noisy = (1 - time[..., None]) * clean + time[..., None] * noise
        device = next(model.parameters()).device
        prompt = prompts[batch.indices].to(device)
        guess = model(
            hidden_states=noisy.to(device),
            timestep=time.flatten().to(device),
            guidance=torch.full((len(clean),), 3.5, device=device),
            pooled_projections=prompt.mean(1),
            encoder_hidden_states=prompt,
            txt_ids=torch.zeros(prompt.shape[1], 3, device=device),
            img_ids=places.to(device),
        ).sample
        return F.mse_loss(guess.float(), (noise - clean).to(device))

    return loss_of


def _packed(latents: Tensor) -> Tensor:
    """(n, channels, height, width) -> (n, tokens, 4 · channels), a token for 2 × 2 places."""
    return F.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)


def _places(height: int, width: int) -> Tensor:
    """(0, row, column) of each token."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3).float()


def prompt_embedding(captions: Sequence[str], width: int, tokens: int = 8) -> Tensor:
    """(captions, tokens, width): numbers in place of a text encoder's, the same for the same word at the same place."""
    rows = []
    for caption in captions:
        words = (caption.lower().split() + [""] * tokens)[:tokens]
        seeds = [int.from_bytes(hashlib.sha256(word.encode()).digest()[:7], "little") for word in words]
        rows.append(torch.stack([torch.randn(width, generator=torch.Generator().manual_seed(s)) for s in seeds]))
    return torch.stack(rows)
