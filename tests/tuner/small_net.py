"""A small model of several layers, an input for it, and selections of its layers to adapt."""

from __future__ import annotations

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q, self.to_v = nn.Linear(16, 16), nn.Linear(16, 16)
        self.conv = nn.Conv1d(16, 16, 3, padding=1)

    def forward(self, x):
        return x + self.conv((self.to_q(x) * self.to_v(x).sigmoid()).mT).mT


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(3))
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def net() -> Net:
    torch.manual_seed(0)
    return Net().double()


X = torch.randn(2, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


SELECTIONS = {
    "names": dict(target_modules=["to_q", "head"]),
    "whole name": dict(target_modules=["layers.1.to_q"]),
    "regex": dict(target_modules=r"layers\.\d+\.(to_q|conv)"),
    "all-linear": dict(target_modules="all-linear"),
    "exclude": dict(target_modules=["to_q", "to_v"], exclude_modules=["layers.1.to_q"]),
    "exclude regex": dict(target_modules=["to_q", "to_v"], exclude_modules=r".*\.2\..*"),
    "one layer": dict(target_modules=["to_q"], layers_to_transform=1, layers_pattern=["blocks", "layers"]),
    "layers": dict(target_modules=["to_q", "conv"], layers_to_transform=[0, 2], layers_pattern="layers"),
    "saved": dict(target_modules=["to_q"], modules_to_save=["head"]),
    "ranks": dict(
        target_modules=["to_q", "to_v"], rank_pattern={"to_q": 1, r"layers\.1\.to_v": 3}, alpha_pattern={"to_q": 9}
    ),
}


def state_of(model: nn.Module) -> dict[str, object]:
    return {name: (type(module), [id(p) for p in module.parameters()]) for name, module in model.named_modules()}
