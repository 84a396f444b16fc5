"""Adapters for tests: a LoKr of every form for every kind of layer, on small models."""

from __future__ import annotations

import torch
from torch import nn

from lokr_core import Adapter, Factor, LoKrWeights, Target, factorization, resolve

WHOLE, LOW, BOTH, BOTH_WHOLE, TUCKER = "whole", "low-rank", "both low-rank", "w1 low-rank", "tucker"
FORMS = (WHOLE, LOW, BOTH, BOTH_WHOLE, TUCKER)


class Layers(nn.Module):
    """A layer of each kind that LoKr is for, none of them square."""

    def __init__(self):
        super().__init__()
        self.inner = nn.ModuleDict()
        self.inner["linear"] = nn.Linear(24, 40)
        self.inner["conv2d"] = nn.Conv2d(16, 24, 3, padding=1)
        self.inner["pointwise"] = nn.Conv2d(24, 16, 1)
        self.inner["conv1d"] = nn.Conv1d(16, 24, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (batch, 24) -> (batch, 24, 40)"""
        picture = self.inner["linear"](x).reshape(-1, 1, 5, 8).expand(-1, 16, -1, -1)
        row = self.inner["pointwise"](self.inner["conv2d"](picture)).flatten(2)
        return self.inner["conv1d"](row)


def lokr(shape: tuple[int, ...], form: str = LOW, rank: int = 2, factor: int = 4, scaling: float = 0.75, **fields):
    """A random LoKr for a weight of ``shape``, split as PEFT splits it, kernels flattened as trainers store them."""
    (l, k), (m, n) = (factorization(size, factor) for size in shape[:2])
    kernel = shape[2:]
    size = 1
    for extent in kernel:
        size *= extent
    w1 = Factor(a=torch.randn(l, 1), b=torch.randn(1, m)) if form in (BOTH, BOTH_WHOLE) else Factor(torch.randn(l, m))
    if form == BOTH:
        w1 = Factor(a=torch.randn(l, rank), b=torch.randn(rank, m))
    if form in (WHOLE, BOTH_WHOLE):
        w2 = Factor(torch.randn(k, n, *kernel))
    elif form == TUCKER and size > 1:
        w2 = Factor(a=torch.randn(rank, k), b=torch.randn(rank, n), t=torch.randn(rank, rank, *kernel))
    else:
        w2 = Factor(a=torch.randn(k, rank), b=torch.randn(rank, n * size))
    alpha = scaling * rank if w2.rank or form == BOTH_WHOLE and w1.rank == rank else None
    return LoKrWeights(w1, w2, scaling, alpha=alpha, **fields)


def adapter_for(model: nn.Module | dict[str, tuple[int, ...]], form: str = LOW, skip: tuple[str, ...] = (), **options):
    """A LoKr for each layer of a model, or for each of these names -> shapes of weights."""
    if isinstance(model, nn.Module):
        model = {name: tuple(m.weight.shape) for name, m in model.named_modules() if hasattr(m, "stride")} | {
            name: tuple(m.weight.shape) for name, m in model.named_modules() if isinstance(m, nn.Linear)
        }
    return Adapter({name: lokr(shape, form, **options) for name, shape in model.items() if not name.endswith(skip)})


def deltas(adapter: Adapter, shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """What the adapter adds to the weights of a model: name of the weight -> ΔW."""
    matches, report = resolve(adapter, Target(shapes))
    assert report.complete, report.text()
    found: dict[str, torch.Tensor] = {}
    for match in matches:
        if match.weight not in found:
            found[match.weight] = torch.zeros(shapes[match.weight])
        match.add_to_(found[match.weight], 1.0)
    return found


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-6):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name] - tensor).norm() <= tolerance * tensor.norm(), name
