"""The processes that torchrun or accelerate started, as the training loop sees them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist

from ..errors import LoKrValueError


@dataclass(frozen=True)
class Processes:
    """This process among those that train together: its rank, their count and its device."""

    rank: int = 0
    count: int = 1
    device: torch.device = torch.device("cpu")

    @classmethod
    def current(cls, device: torch.device | str = "cpu") -> Processes:
        """From torch's process group, whoever created it; a single process if there is none."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls(device=torch.device(device))
        return cls(dist.get_rank(), dist.get_world_size(), torch.device(device))

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and prints."""
        return self.rank == 0

    def share(self, items: list) -> list:
        """This process' part of ``items``, equally long in each.

        >>> Processes(rank=1, count=2).share([5, 6, 7, 8])
        [7, 8]
        """
        size = len(items) // self.count
        return items[self.rank * size : (self.rank + 1) * size]

    def mean(self, value: Tensor) -> float:
        """The mean over all processes of a scalar, the same number in each."""
        value = value.detach().clone()
        if self.count > 1:
            dist.all_reduce(value)
        return float(value) / self.count

    def wait(self) -> None:
        """Return when all processes have called it."""
        if self.count > 1:
            dist.barrier()

    def spread(self, model: nn.Module, how: str = "ddp") -> nn.Module:
        """``model`` on ``self.device``, wrapped for training in all processes; itself if there is only one.

        how: "ddp" keeps the whole model in each process and averages the gradients; "fsdp" shards its parameters
            (``fully_shard``, torch 2.6) and gathers one block at a time, of the classes in ``_no_split_modules``

        Raises LoKrValueError if ``how`` is unknown, ImportError if this torch lacks ``fully_shard``.
        """
        model = model.to(self.device)
        if self.count == 1:
            return model
        if how == "fsdp":
            return _shard(model, self.device, self.count)
        if how != "ddp":
            raise LoKrValueError("Unknown way to spread a model", expected="ddp, fsdp", found=repr(how))
        # Module dropout leaves layers without gradients, which DDP looks for only on request.
        drops = any(any(getattr(module, "module_dropout", {}).values()) for module in model.modules())
        return nn.parallel.DistributedDataParallel(model, find_unused_parameters=drops)


def _shard(model: nn.Module, device: torch.device, count: int) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (count,))
    blocks = set(getattr(model, "_no_split_modules", None) or ())
    for module in reversed(list(model.modules())):  # inner blocks before the blocks around them
        if type(module).__name__ in blocks:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


# gloo's threads release a collective's tensors only after its result has arrived, under the interpreter's lock. A
# thread that takes the lock while the interpreter shuts down aborts the process with SIGABRT (3 % of the trainings with
# FSDP2 and torch 2.13), and destroying the group does not wait for the threads. Seconds.
_RELEASE_TIME = 0.2


@contextmanager
def processes(device: torch.device | str | None = None) -> Iterator[Processes]:
    """The processes that torchrun started, as a process group while the block runs; else this process alone.

    device: where to train; this process' GPU by default, or the CPU

    A process group that already exists (accelerate's) is used and not destroyed.
    """
    if device is None:
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    owned = int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized()
    if owned:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes.current(device)
    finally:
        if owned:
            waits = dist.get_backend() == "gloo"
            dist.destroy_process_group()
            if waits:
                time.sleep(_RELEASE_TIME)
