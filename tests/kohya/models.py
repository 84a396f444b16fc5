"""A denoiser of diffusers' blocks and a text encoder of transformers', small; steps as the trainers take them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("diffusers", reason="the denoisers of these tests are made of its blocks")
pytest.importorskip("transformers", reason="the text encoders of these tests are its")

from diffusers.models import Transformer2DModel
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from transformers import CLIPTextConfig, CLIPTextModel


class Denoiser(nn.Module):
    """latent (batch, 4, 8, 8), text (batch, positions, 24) -> (batch, 4, 4, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(4, 16, 3, padding=1)
        self.time_embedding = nn.ModuleDict({"linear_1": nn.Linear(8, 32), "linear_2": nn.Linear(32, 32)})
        self.resnet = ResnetBlock2D(in_channels=16, out_channels=32, temb_channels=32, groups=4)
        self.attention = Transformer2DModel(2, 16, in_channels=32, cross_attention_dim=24, norm_num_groups=4)
        self.down = Downsample2D(32, use_conv=True)
        self.conv_out = nn.Conv2d(32, 4, 3, padding=1)

    def forward(self, latent: Tensor, time: Tensor, text: Tensor) -> Tensor:
        time = self.time_embedding["linear_2"](nn.functional.silu(self.time_embedding["linear_1"](time)))
        x = self.resnet(self.conv_in(latent), time)
        x = self.attention(x, encoder_hidden_states=text).sample
        return self.conv_out(self.down(x))


def denoiser(seed: int = 0) -> Denoiser:
    torch.manual_seed(seed)
    return Denoiser()


def text_encoder(seed: int = 0) -> CLIPTextModel:
    torch.manual_seed(seed)
    sizes = dict(hidden_size=24, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2)
    return CLIPTextModel(CLIPTextConfig(vocab_size=50, max_position_embeddings=6, eos_token_id=49, **sizes))


def frozen(*models: nn.Module) -> None:
    for model in models:
        model.requires_grad_(False)


def loss_of(unet: Denoiser, encoder: nn.Module, generator: torch.Generator) -> Tensor:
    """The mean square of the difference from noise, for two random examples."""
    ids = torch.randint(0, 50, (2, 6), generator=generator)
    latent, noise = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 4, 4, 4, generator=generator)
    time = torch.randn(2, 8, generator=generator)
    return (unet(latent, time, encoder(ids)[0]) - noise).square().mean()


def trained(
    make: Callable[[nn.Module, nn.Module], nn.Module], steps: int = 20, file: str | None = None
) -> tuple[list[float], nn.Module, dict[str, Tensor]]:
    """A network of ``make(text encoder, denoiser)`` trained with sd-scripts' calls.

    file: to begin with

    Returns (losses, network, its state at the start).
    """
    unet, encoder = denoiser(), text_encoder()
    torch.manual_seed(1)
    network = make(encoder, unet)
    network.apply_to(encoder, unet, True, True)
    if file is not None:
        network.load_weights(file)
    groups, _ = network.prepare_optimizer_params(1e-3, 2e-3, 1e-4)
    optimizer = torch.optim.AdamW([{**group, "params": list(group["params"])} for group in groups])
    frozen(unet, encoder)
    network.prepare_grad_etc(encoder, unet)
    network.on_epoch_start(encoder, unet)
    start = {key: tensor.detach().clone() for key, tensor in network.state_dict().items()}
    torch.manual_seed(2)  # of dropout
    generator, losses = torch.Generator().manual_seed(3), []
    for _ in range(steps):
        network.on_step_start(encoder, unet)
        loss = loss_of(unet, encoder, generator)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return losses, network, start
