"""A training as a script, for one process or several: ``training.py --out OUT [options]``.

The model has Linear and Conv2d layers with LoKr in blocks that FSDP shards one by one, and layers without. Losses,
state and adapter are in OUT.
"""

from __future__ import annotations

import argparse
import os
import signal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lokr_core import LoKrConfig, get_lokr_model
from lokr_core.cli import add_arguments, run
from lokr_core.training import Batch


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.up, self.down = nn.Linear(8, 24), nn.Linear(24, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.conv(x).relu()
        return x + self.down(self.up(x.movedim(1, -1)).relu()).movedim(-1, 1)


class Net(nn.Module):
    _no_split_modules = ["Block"]

    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        for block in self.blocks:
            x = block(x)
        return self.out(x)


def shard_on_a_cpu() -> None:
    """Have accelerate shard with FSDP2, as ``accelerate launch --use_fsdp --fsdp_version 2`` does where there are GPUs.

    On CPUs it takes DDP instead, whatever was asked for.
    """
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "false"}
    os.environ["FSDP_AUTO_WRAP_POLICY"] = "TRANSFORMER_BASED_WRAP"
    create = AcceleratorState.__init__

    def created(self, *args, fsdp_plugin=None, **kwargs) -> None:
        create(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

    AcceleratorState.__init__ = created


def main() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser, "out", batch_size=4, learning_rate=1e-2)
    parser.add_argument("--parallel", choices=("ddp", "fsdp"), default="ddp")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--die-at", type=int, default=-1, help="kill the last process in this step")
    options = parser.parse_args()
    count = int(os.environ.get("WORLD_SIZE", 1))
    if options.parallel == "fsdp" and count > 1:
        shard_on_a_cpu()
    torch.manual_seed(0)
    pictures = torch.randn(6, 3, 8, 8)
    config = LoKrConfig(
        r=2,
        alpha=4,
        target_modules=["conv", "up", "down"],
        rank_dropout=options.dropout,
        module_dropout=options.dropout,
    )

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        if batch.step == options.die_at and int(os.environ.get("RANK", 0)) == count - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        clean = pictures[batch.indices]
        noise = batch.randn(3, 8, 8)
        return F.mse_loss(model(clean + noise), clean)

    run(get_lokr_model(Net(), config), loss_of, len(pictures), options)


if __name__ == "__main__":
    main()
