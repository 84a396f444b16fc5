"""Small models, the LoKr layers of PEFT and of LyCORIS on them, and a training of 50 steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

peft = pytest.importorskip("peft", reason="PEFT's own layers are the expected value of these tests")
lycoris = pytest.importorskip("lycoris", reason="LyCORIS' own layers are the expected value of these tests")

STEPS = 50


class Unet(nn.Module):
    """A convolutional net with a skip connection, a step down and one up, and a 1x1 convolution.

    No layer has few rows: dropout of all of them, rescaled, is 0 / 0 in every family.
    """

    def __init__(self):
        super().__init__()
        self.enter, self.down = nn.Conv2d(4, 16, 3, padding=1), nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.middle, self.up = nn.Conv2d(32, 32, 1), nn.Conv2d(32, 16, 3, padding=1)
        self.leave, self.time = nn.Conv2d(32, 8, 3, padding=1, bias=False), nn.Linear(8, 32)

    def forward(self, x: Tensor) -> Tensor:
        entered = torch.nn.functional.silu(self.enter(x))
        inner = self.down(entered) + self.time(x.flatten(1)[:, :8])[..., None, None]
        inner = self.up(nn.functional.interpolate(self.middle(inner).sigmoid(), scale_factor=2.0))
        return self.leave(torch.cat([inner, entered], 1))


class Attention(nn.Module):
    """One block of a vision transformer: patches, attention and a feed-forward part."""

    def __init__(self):
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 24, 4, stride=4), nn.LayerNorm(24)
        self.q, self.k, self.v, self.o = (nn.Linear(24, 24) for _ in range(4))
        self.up, self.down = nn.Linear(24, 48), nn.Linear(48, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).mT  # (batch, positions, 24)
        y = self.norm(x)
        x = x + self.o(nn.functional.scaled_dot_product_attention(self.q(y), self.k(y), self.v(y)))
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(48, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 32))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (6, 48)),
    "unet": (Unet, (2, 4, 8, 8)),
    "vit": (Attention, (2, 3, 16, 16)),
}


class Trained(NamedTuple):
    """A model with LoKr layers to train: what to call, what to speed up, and what is trained."""

    call: nn.Module
    holder: nn.Module
    parameters: list[nn.Parameter]


def base(name: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """(a frozen model, an input for it), the same in each call."""
    torch.manual_seed(seed)
    make, shape = MODELS[name]
    return make().requires_grad_(False), torch.randn(shape)


def with_peft(model: nn.Module, **fields) -> Trained:
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d)
    targets = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    fields = {"r": 4, "alpha": 6, "init_weights": "lycoris", "target_modules": targets, **fields}
    torch.manual_seed(1)
    adapted = peft.get_peft_model(model, peft.LoKrConfig(**fields))
    return Trained(adapted, adapted, [p for p in adapted.parameters() if p.requires_grad])


def with_lycoris(model: nn.Module, rank_dropout_scale: bool = False, **fields) -> Trained:
    torch.manual_seed(1)
    lycoris.LycorisNetwork.apply_preset({"target_module": ["Linear", "Conv2d"]})
    network = lycoris.create_lycoris(model, linear_dim=4, linear_alpha=6, algo="lokr", **fields)
    network.apply_to()
    for layer in network.loras:  # create_lycoris does not pass it on
        layer.rank_dropout_scale = rank_dropout_scale
    return Trained(model, network, list(network.parameters()))


def losses(trained: Trained, x: Tensor, steps: int = STEPS, lr: float = 3e-3) -> Tensor:
    """The loss of each step of a training from fixed random numbers."""
    optimizer = torch.optim.AdamW(trained.parameters, lr=lr)
    x = x.clone().requires_grad_()  # a step whose adapters are all dropped has a gradient too
    torch.manual_seed(2)
    target = torch.randn_like(trained.call(x).detach())
    found = []
    for _ in range(steps):
        loss = (trained.call(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.detach())
    return torch.stack(found)


def assert_same_training(make: Callable[[], tuple[Trained, Tensor]], place: Callable[[Trained], object]) -> Trained:
    """The losses of a training are the same with what ``place`` does to the layers, and so are the trained factors;
    returns the model that was sped up."""
    plain, x = make()
    started = [parameter.detach().clone() for parameter in plain.parameters]
    expected = losses(plain, x)
    sped, x = make()
    place(sped)
    found = losses(sped, x)
    assert float(((found - expected) / expected).abs().max()) <= 1e-4
    assert float(expected[-1]) < float(expected[0])
    for one, other, start in zip(sped.parameters, plain.parameters, started, strict=True):
        assert float((one - other).detach().norm()) <= 1e-3 * float((other - start).detach().norm()) + 1e-9
    return sped
