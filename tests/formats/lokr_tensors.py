"""Small LoKr modules, for files built as trainers build them."""

from __future__ import annotations

import torch
from torch import Tensor

WHOLE = ((2, 2), (4, 3))  # shapes of w1 and w2; the weight is (8, 6)


def lokr(alpha: float | None = 2.0, rank: int | None = 2, dora: bool = False, seed: int = 0) -> dict[str, Tensor]:
    """One module's tensors by name, for a weight (8, 6); ``rank`` None leaves w2 whole."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    tensors = {"lokr_w1": random(2, 2)}
    if rank is None:
        tensors["lokr_w2"] = random(4, 3)
    else:
        tensors |= {"lokr_w2_a": random(4, rank), "lokr_w2_b": random(rank, 3)}
    if alpha is not None:
        tensors["alpha"] = torch.tensor(float(alpha))
    if dora:
        tensors["dora_scale"] = torch.ones(8, 1)
    return tensors


def keyed(module: str, tensors: dict[str, Tensor] | None = None, join: str = ".") -> dict[str, Tensor]:
    """``tensors`` (a low-rank LoKr by default) under the keys of ``module``."""
    return {f"{module}{join}{name}": tensor for name, tensor in (lokr() if tensors is None else tensors).items()}


def file_of(*modules: str, alpha: float | None = 2.0, rank: int | None = 2, dora: bool = False) -> dict[str, Tensor]:
    """A file's tensors: a LoKr for each of ``modules``, all of unlike numbers."""
    tensors: dict[str, Tensor] = {}
    for seed, module in enumerate(modules):
        tensors |= keyed(module, lokr(alpha, rank, dora, seed))
    return tensors


def only(adapter, component: str):
    """The modules of one component, as an adapter of their own."""
    names = {module: name for module, name in adapter.names.items() if name.component == component}
    return type(adapter)({module: adapter[module] for module in names}, names)
