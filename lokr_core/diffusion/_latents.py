"""Pictures as a VAE's latents and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Of a standard deviation's logarithm; less than the first rounds to no noise in any dtype.
_LEAST, _MOST = -15.0, 10.0


@torch.no_grad()
def encode(vae: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """(n, 3, height, width) in -1 … 1 -> the latents' (mean, standard deviation), (n, channels, h, w), scaled."""
    given = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
    mean, deviation = given.mean.float(), given.logvar.float().div(2).clamp(_LEAST, _MOST).exp()
    shift, scale = _scaling(vae, mean)
    return (mean - shift) * scale, deviation * scale


@torch.no_grad()
def decode(vae: Any, latents: Tensor) -> Tensor:
    """Scaled latents (n, channels, h, w) -> pixels (n, 3, height, width) in -1 … 1."""
    shift, scale = _scaling(vae, latents.float())
    return vae.decode((latents.float() / scale + shift).to(vae.device, vae.dtype)).sample.float().clamp(-1, 1)


def _scaling(vae: Any, latents: Tensor) -> tuple[Any, Any]:
    """(shift, scale) with which a denoiser sees latents: (latent - shift) · scale; numbers, or one per channel."""
    config = vae.config
    mean, deviation = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and deviation is not None:
        channels = [torch.tensor(each).to(latents).view(1, -1, 1, 1) for each in (mean, deviation)]
        return channels[0], config.scaling_factor / channels[1]
    return config.get("shift_factor") or 0.0, config.scaling_factor
