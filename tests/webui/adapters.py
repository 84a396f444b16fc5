"""LoKr files for the models of ``tiny_checkpoints.py`` and ``forge_checkpoint.py``, named as several trainers do."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

Layers = Mapping[str, tuple[int, ...]]


def unet_layers(context: int) -> dict[str, tuple[int, ...]]:
    """diffusers' names of layers of the tiny SD1.5 or SD2 -> shapes of their weights: attentions, and convolutions."""
    layers = {
        "mid_block.resnets.0.conv1": (256, 256, 3, 3),
        "down_blocks.0.resnets.0.conv2": (64, 64, 3, 3),
        "down_blocks.0.downsamplers.0.conv": (64, 64, 3, 3),
        "up_blocks.3.resnets.2.time_emb_proj": (64, 256),
    }
    for block, width, count in (
        ("down_blocks.0", 64, 2),
        ("down_blocks.2", 256, 2),
        ("up_blocks.1", 256, 3),
        ("up_blocks.3", 64, 3),
    ):
        for number in range(count):
            layers |= attention(f"{block}.attentions.{number}", width, context)
    return layers


def attention(path: str, width: int, context: int, depth: int = 1) -> dict[str, tuple[int, ...]]:
    layers = {}
    for number in range(depth):
        block = f"{path}.transformer_blocks.{number}"
        for kind, source in (("attn1", width), ("attn2", context)):
            layers |= {f"{block}.{kind}.to_q": (width, width), f"{block}.{kind}.to_out.0": (width, width)}
            layers |= {f"{block}.{kind}.to_k": (width, source), f"{block}.{kind}.to_v": (width, source)}
        layers |= {f"{block}.ff.net.0.proj": (8 * width, width), f"{block}.ff.net.2": (width, 4 * width)}
    return layers


def text_layers(width: int, count: int = 12) -> dict[str, tuple[int, ...]]:
    """transformers' names of a CLIP text encoder's layers -> shapes of their weights."""
    layers = {}
    for number in range(count):
        layer = f"text_model.encoder.layers.{number}"
        layers |= {f"{layer}.self_attn.{part}_proj": (width, width) for part in ("q", "k", "v", "out")}
        layers |= {f"{layer}.mlp.fc1": (4 * width, width), f"{layer}.mlp.fc2": (width, 4 * width)}
    return layers


SD15 = {"unet": unet_layers(768), "te": text_layers(768)}
SD2 = {"unet": unet_layers(512), "te": text_layers(512)}
FORGE_WIDTH = 320  # of every layer of the UNet
FORGE_SD15 = {
    "unet": attention("down_blocks.0.attentions.1", FORGE_WIDTH, 768)
    | attention("mid_block.attentions.0", FORGE_WIDTH, 768)
    | attention("up_blocks.2.attentions.2", FORGE_WIDTH, 768)
    | {
        "down_blocks.0.resnets.0.conv1": (FORGE_WIDTH, FORGE_WIDTH, 3, 3),
        "down_blocks.1.downsamplers.0.conv": (FORGE_WIDTH, FORGE_WIDTH, 3, 3),
        "up_blocks.1.attentions.0.proj_in": (FORGE_WIDTH, FORGE_WIDTH, 1, 1),
        "up_blocks.3.resnets.2.time_emb_proj": (FORGE_WIDTH, 4 * FORGE_WIDTH),
    },
    "te": text_layers(768),
}
SDXL = {
    "unet": attention("down_blocks.1.attentions.1", 128, 1280, depth=2)
    | attention("mid_block.attentions.0", 256, 1280, depth=3)
    | {"down_blocks.0.resnets.0.conv1": (64, 64, 3, 3)},
    "te1": text_layers(768),
    "te2": text_layers(512),
}


def kohya(part: str, path: str) -> str:
    return f"lora_{part}_{path.replace('.', '_')}"


def peft(part: str, path: str) -> str:
    return f"base_model.model.{path}"


def onetrainer(part: str, path: str) -> str:
    return f"{'lora_unet' if part == 'unet' else 'lora_te'}.{path}"


def simpletuner(part: str, path: str) -> str:
    return f"lycoris_{path.replace('.', '_')}"


def lokr(
    layers: Mapping[str, Layers],
    name_of: Callable[[str, str], str] = kohya,
    rank: int | None = 4,
    dora: str | None = None,
    size: float = 0.3,
    seed: int = 0,
    alpha: bool = True,
) -> dict[str, Tensor]:
    """Random LoKr for ``layers`` (part -> name -> shape); ``dora``: the axis of its norms, "out" or "in"."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    tensors = {}
    for part, named in layers.items():
        for path, (out, columns, *kernel) in named.items():
            fan_in = columns // 8 * math.prod(kernel)
            update = {"lokr_w1": random(8, 8) / 8}
            if rank is None:
                update["lokr_w2"] = random(out // 8, columns // 8, *kernel) * size / fan_in**0.5
            else:
                update["lokr_w2_a"] = random(out // 8, rank) * size
                update["lokr_w2_b"] = random(rank, fan_in) / fan_in**0.5
            if alpha:
                update["alpha"] = torch.tensor(float(rank or 1))
            if dora:
                length = (out, 1) if dora == "out" else (1, columns)
                update["dora_scale"] = (1 + 0.2 * random(*length)).reshape(*length, *[1] * len(kernel))
            tensors |= {f"{name_of(part, path)}.{name}": tensor for name, tensor in update.items()}
    return tensors


def lora(layers: Mapping[str, Layers], size: float = 0.1, seed: int = 9) -> dict[str, Tensor]:
    """A LoRA in kohya's names, for the layers that are no convolutions."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for part, named in layers.items():
        for path, shape in named.items():
            if len(shape) == 2:
                name = kohya(part, path)
                tensors[f"{name}.lora_up.weight"] = torch.randn(shape[0], 4, generator=generator) * size
                tensors[f"{name}.lora_down.weight"] = torch.randn(4, shape[1], generator=generator) / shape[1] ** 0.5
                tensors[f"{name}.alpha"] = torch.tensor(4.0)
    return tensors


def save(tensors: dict[str, Tensor], path: Path, **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(path), metadata)
    return path
