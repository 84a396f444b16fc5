"""``python -m benchmarks.training_same [CASE ...]``: whether ``speed_up`` leaves a training of 50 steps what it is.

For each case and way: the largest relative difference of a loss, and of a trained factor relative to how far it moved.
``LOKR_WAYS`` (such as "PEFT|LyCORIS") selects ways.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks import training
from benchmarks.training import ALPHA, RANK, Case
from lokr_core import speed_up

STEPS, LEARNING_RATE = 50, 1e-3
LOSSES_WITHIN, FACTORS_WITHIN = 1e-4, 1e-3

Layers = tuple[nn.Module, list[nn.Parameter]]


def unet(share: int) -> Case:
    """SD1.5's UNet with 1 / ``share`` of its widths."""
    from diffusers import UNet2DConditionModel

    sizes = dict(block_out_channels=[width // share for width in (320, 640, 1280, 1280)], norm_num_groups=32 // share)
    model = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8, **sizes)
    text, latents = torch.randn(1, 77, 768), torch.randn(1, 4, 16, 16)
    forward = lambda m, x: m(x, 10, text).sample  # noqa: E731
    return Case(f"SD1.5 UNet, 1/{share} of the widths, 16×16", model, training.SEED_TARGETS, forward, latents, 1)


def mlp() -> Case:
    """Four Linears of 3072."""
    case = training.mlp()
    return replace(case, name="MLP 4 × 3072, 32 tokens", x=case.x[:32])


def vit() -> Case:
    """ViT-B on a small picture."""
    from transformers import ViTConfig, ViTModel

    model = ViTModel(ViTConfig(image_size=64), add_pooling_layer=False)
    forward = lambda m, x: m(x).last_hidden_state  # noqa: E731
    return Case("ViT-B, 64×64", model, training.VIT_TARGETS, forward, torch.randn(1, 3, 64, 64), 1)


def flux(share: int, double: int, single: int) -> Case:
    """Flux.1's transformer with 1 / ``share`` of its widths, 32 positions."""
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel(
        num_layers=double, num_single_layers=single, guidance_embeds=False, num_attention_heads=24 // share
    )
    text = torch.randn(1, 8, 4096)
    others = dict(pooled_projections=torch.randn(1, 768), timestep=torch.tensor([0.5]))
    others |= dict(img_ids=torch.zeros(24, 3), txt_ids=torch.zeros(8, 3))
    forward = lambda m, x: m(x, encoder_hidden_states=text, **others).sample  # noqa: E731
    name = f"Flux, 1/{share} of the widths, {double} + {single} blocks"
    return Case(name, model, training.FLUX_TARGETS, forward, torch.randn(1, 24, 64), 1)


CASES: dict[str, Callable[[], Case]] = {
    "mlp": mlp,
    "vit": vit,
    "unet4": lambda: unet(4),
    "unet2": lambda: unet(2),
    "unet": lambda: unet(1),
    "flux4": lambda: flux(4, 2, 4),
    "flux2": lambda: flux(2, 2, 4),
    "flux": lambda: flux(1, 1, 1),
}


@contextmanager
def peft(case: Case, **fields: float) -> Iterator[Layers]:
    from peft import LoKrConfig, LoKrModel

    config = LoKrConfig(r=RANK, alpha=ALPHA, target_modules=list(case.targets), init_weights="lycoris", **fields)
    model = LoKrModel(case.model, config, "default")
    yield model, [p for p in model.parameters() if p.requires_grad]
    model.unload()


@contextmanager
def lycoris(case: Case, **fields: float) -> Iterator[Layers]:
    from lycoris.modules.lokr import LokrModule

    ends = tuple("." + target for target in case.targets)
    found = [module for name, module in case.model.named_modules() if ("." + name).endswith(ends)]
    modules = [LokrModule("m", module, lora_dim=RANK, alpha=ALPHA, **fields).train() for module in found]
    for module in modules:
        module.apply_to()
    yield case.model, [p for module in modules for p in module.parameters()]
    for module in modules:
        module.restore()


WAYS = {
    "PEFT": lambda case: peft(case),
    "PEFT, dropout": lambda case: peft(case, rank_dropout=0.1, module_dropout=0.1),
    "LyCORIS": lambda case: lycoris(case),
    "LyCORIS, dropout": lambda case: lycoris(case, rank_dropout=0.1, module_dropout=0.1),
    "LyCORIS, bypass": lambda case: lycoris(case, bypass_mode=True),
}


def trained(case: Case, way: Callable, sped_up: bool) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """(the losses, the factors before, the factors after) of a training from fixed random numbers."""
    torch.manual_seed(1)
    with way(case) as (model, parameters):
        handle = speed_up(model) if sped_up else None
        if handle is not None and (handle.report.left or len(handle.report.sped_up) < 4):
            raise SystemExit(f"{case.name}: {handle.report}")
        start = [parameter.detach().clone() for parameter in parameters]
        optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE)
        target = torch.randn(case.forward(model, case.x).shape)
        torch.manual_seed(2)
        losses = []
        for _ in range(STEPS):
            # x needs a gradient: a step whose adapters are all dropped has one too.
            loss = (case.forward(model, case.x.detach().requires_grad_()) - target).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
        after = [parameter.detach().clone() for parameter in parameters]
        if handle is not None:
            handle.remove()
    return torch.stack(losses), start, after


def compared(case: Case, way: Callable) -> tuple[float, float, Tensor]:
    """(the largest relative difference of a loss, that of a factor of how far it moved, the plain losses)."""
    expected, start, after = trained(case, way, False)
    found, _, other = trained(case, way, True)
    pairs = zip(other, after, start, strict=True)
    moved = [float((b - a).norm() / (b - c).norm().clamp_min(1e-9)) for a, b, c in pairs]
    return float(((found - expected) / expected).abs().max()), max(moved), expected


def main() -> None:
    torch.set_num_threads(1)
    for name in sys.argv[1:] or ("mlp", "vit", "unet4", "flux4"):
        torch.manual_seed(0)
        case = CASES[name]()
        case.model.requires_grad_(False)
        for way in os.environ.get("LOKR_WAYS", "|".join(WAYS)).split("|"):
            losses, factors, plain = compared(case, WAYS[way])
            ok = losses <= LOSSES_WITHIN and factors <= FACTORS_WITHIN and plain[-1] < plain[0]
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            course = f"{plain[0]:.4f} to {plain[-1]:.4f}"
            print(
                f"{case.name}, {way}: losses {losses:.1e}, factors {factors:.1e} apart, {'as asked' if ok else 'NOT'}; "
                f"loss {course}; peak {peak:.1f} GiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
