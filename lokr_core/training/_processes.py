"""One process or several: what torchrun and accelerate start, as the loop sees it."""

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
    """The group of processes that train together, or the only one there is."""

    rank: int = 0
    count: int = 1
    device: torch.device = torch.device("cpu")

    @classmethod
    def current(cls, device: torch.device | str = "cpu") -> Processes:
        """Those of torch's process group, wherever it comes from."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls(device=torch.device(device))
        return cls(dist.get_rank(), dist.get_world_size(), torch.device(device))

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def share(self, items: list) -> list:
        """This process' part of a batch: as many items as every other's."""
        size = len(items) // self.count
        return items[self.rank * size : (self.rank + 1) * size]

    def mean(self, value: Tensor) -> float:
        """The mean of all processes' ``value``, the same number in each."""
        value = value.detach().clone()
        if self.count > 1:
            dist.all_reduce(value)
        return float(value) / self.count

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            dist.barrier()

    def spread(self, model: nn.Module, how: str = "ddp") -> nn.Module:
        """``model`` for training in all processes: "ddp" keeps it whole in each and averages gradients, "fsdp" shards
        its parameters (``fully_shard``, torch 2.6). In one process it is ``model`` itself. On ``self.device`` after.

        With "fsdp" the blocks that the model names in ``_no_split_modules`` are gathered one at a time.
        """
        model = model.to(self.device)
        if self.count == 1:
            return model
        if how == "ddp":
            # Module dropout leaves layers without gradients; DDP has to be told to look for them.
            drops = any(any(getattr(module, "module_dropout", {}).values()) for module in model.modules())
            return nn.parallel.DistributedDataParallel(model, find_unused_parameters=drops)
        if how != "fsdp":
            raise LoKrValueError("There is no such way to spread a model", expected="ddp, fsdp", found=repr(how))
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.device.type, (self.count,))
        blocks = set(getattr(model, "_no_split_modules", None) or ())
        for module in reversed(list(model.modules())):  # blocks may lie in blocks, and the inner ones come first
            if type(module).__name__ in blocks:
                fully_shard(module, mesh=mesh)
        return fully_shard(model, mesh=mesh)


# gloo's threads let go of a collective's tensors only after its result is there, and take the interpreter's lock for
# it. One that asks for it while the interpreter shuts down ends the whole process with SIGABRT (seen in 3 % of the
# trainings with FSDP2 and torch 2.13); destroying the group does not wait for them. Seconds.
_LETTING_GO = 0.2


@contextmanager
def processes(device: torch.device | str | None = None) -> Iterator[Processes]:
    """The processes that torchrun started, as a group while the block runs; one process where it did not.

    device: where to train; by default this process' GPU where there is one, else the CPU. A process group that exists
    already (accelerate's) is used and left as it is.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    if device is None:
        device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
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
                time.sleep(_LETTING_GO)
