"""Matching names: 1,000 modules in PEFT's spelling against a target of 3,000 weights in ComfyUI's."""

from __future__ import annotations

import torch

from lokr_core import Target, resolve
from lokr_core.formats import parse_adapter

from .measure import median_times

WIDTH = 64
# Flux.1's blocks: (diffusers' module, ComfyUI's weight, rows and columns in multiples of the width).
DOUBLE = (
    ("transformer_blocks.{i}.attn.to_q", "double_blocks.{i}.img_attn.qkv", (1, 1), (3, 1)),
    ("transformer_blocks.{i}.attn.to_k", "double_blocks.{i}.img_attn.qkv", (1, 1), (3, 1)),
    ("transformer_blocks.{i}.attn.to_v", "double_blocks.{i}.img_attn.qkv", (1, 1), (3, 1)),
    ("transformer_blocks.{i}.attn.to_out.0", "double_blocks.{i}.img_attn.proj", (1, 1), (1, 1)),
    ("transformer_blocks.{i}.ff.net.0.proj", "double_blocks.{i}.img_mlp.0", (4, 1), (4, 1)),
    ("transformer_blocks.{i}.ff.net.2", "double_blocks.{i}.img_mlp.2", (1, 4), (1, 4)),
    ("transformer_blocks.{i}.norm1.linear", "double_blocks.{i}.img_mod.lin", (6, 1), (6, 1)),
    ("transformer_blocks.{i}.norm1_context.linear", "double_blocks.{i}.txt_mod.lin", (6, 1), (6, 1)),
)
SINGLE = (
    ("single_transformer_blocks.{i}.attn.to_q", "single_blocks.{i}.linear1", (1, 1), (7, 1)),
    ("single_transformer_blocks.{i}.proj_mlp", "single_blocks.{i}.linear1", (4, 1), (7, 1)),
    ("single_transformer_blocks.{i}.proj_out", "single_blocks.{i}.linear2", (1, 5), (1, 5)),
    ("single_transformer_blocks.{i}.norm.linear", "single_blocks.{i}.modulation.lin", (3, 1), (3, 1)),
)


def run() -> list[dict]:
    """Seconds for the target's names, and for resolving the file's modules against them."""
    blocks = 84
    modules: dict[str, tuple[int, int]] = {}
    weights = {"img_in.weight": (WIDTH, 64), "txt_in.weight": (WIDTH, 64), "final_layer.linear.weight": (64, WIDTH)}
    for rows, count in ((DOUBLE, blocks), (SINGLE, blocks)):
        for i in range(count):
            for diffusers, original, small, large in rows:
                modules[diffusers.format(i=i)] = tuple(WIDTH * n for n in small)
                weights[f"{original.format(i=i)}.weight"] = tuple(WIDTH * n for n in large)
    for number in range(3000 - len(weights)):
        weights[f"further.{number}.weight"] = (WIDTH, WIDTH)
    shapes = {f"diffusion_model.{name}": shape for name, shape in weights.items()}
    tensors = {}
    for name, shape in modules.items():
        tensors[f"base_model.model.{name}.lokr_w1"] = torch.ones(1, 1)
        tensors[f"base_model.model.{name}.lokr_w2"] = torch.ones(1).expand(shape)
    adapter = parse_adapter(tensors)
    target = Target(shapes)
    _, report = resolve(adapter, target)
    assert report.complete, report.text()
    runs = {"the target's names": lambda: Target(shapes), "resolve": lambda: resolve(adapter, target)}
    times = median_times(runs)
    return [{"case": f"{len(modules)} modules, {len(shapes)} weights", "ms": {n: t * 1e3 for n, t in times.items()}}]
