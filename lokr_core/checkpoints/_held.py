"""A model in memory, with the interface of one on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .._files import TensorInfo


@dataclass(frozen=True)
class Held:
    """A tensor of a model in memory, made by ``make`` each time that it is read."""

    path: Path
    name: str
    info: TensorInfo
    make: Callable[[], Tensor]

    def beside(self, end: str) -> bool:
        """Whether the tensor has scales of its own: none that ``make`` leaves out."""
        return False

    def read(self) -> Tensor:
        return self.make()


@dataclass(frozen=True)
class HeldCheckpoint:
    """A model in memory. ``path``: its name, for errors.

    >>> found = HeldCheckpoint.of("base", {"a.weight": (2, 3)}, lambda name: torch.ones(2, 3))
    >>> found.shapes, found.tensors["a.weight"].read().sum().item()
    ({'a.weight': (2, 3)}, 6.0)
    """

    path: Path
    tensors: Mapping[str, Held]

    @classmethod
    def of(cls, name: str, shapes: Mapping[str, tuple[int, ...]], make: Callable[[str], Tensor]) -> HeldCheckpoint:
        """shapes: name -> shape; make: name -> the tensor, in fp32."""
        path = Path(name)
        return cls(path, {key: _held(path, key, tuple(shape), make) for key, shape in shapes.items()})

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape."""
        return {name: held.info.shape for name, held in self.tensors.items()}

    @property
    def size(self) -> int:
        """Bytes of all its tensors."""
        return sum(held.info.stop for held in self.tensors.values())


def _held(path: Path, name: str, shape: tuple[int, ...], make: Callable[[str], Tensor]) -> Held:
    size = torch.Size(shape).numel() * torch.float32.itemsize
    return Held(path, name, TensorInfo(torch.float32, shape, 0, size), lambda: make(name))
