"""Where a training runs: accelerate's ``Accelerator``, or this process alone without that package."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LoKrValueError
from ._optional import needed

PRECISIONS = {"fp32": "no", "fp16": "fp16", "bf16": "bf16"}


class Alone:
    """The part of an ``Accelerator`` that the loop uses, for one process; nothing is moved or cast."""

    num_processes, process_index, is_main_process, scaler = 1, 0, True, None

    def __init__(self, device: torch.device):
        self.device = device

    def prepare(self, *objects: Any) -> tuple:
        return objects

    def unwrap_model(self, model: nn.Module) -> nn.Module:
        return model

    def no_sync(self, model: nn.Module) -> nullcontext:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip_grad_norm_(self, parameters: list[nn.Parameter], most: float) -> None:
        nn.utils.clip_grad_norm_(parameters, most)

    def reduce(self, value: Tensor, reduction: str) -> Tensor:
        return value

    def wait_for_everyone(self) -> None:
        pass


def accelerator_for(precision: str = "fp32", unused: bool = False) -> Any:
    """An ``Accelerator`` for the processes that ``accelerate launch`` started, or for this one.

    precision: "fp32", "fp16" or "bf16"
    unused: whether a step may leave out parameters, as module dropout does; DDP looks for them only on request

    Raises LoKrValueError if the precision is unknown, LoKrError if accelerate is not installed.
    """
    if precision not in PRECISIONS:
        raise LoKrValueError("Unknown precision", expected=", ".join(PRECISIONS), found=repr(precision))
    accelerate = needed("accelerate", "1")
    handlers = [accelerate.DistributedDataParallelKwargs(find_unused_parameters=unused)]
    # Several processes on CPUs have to be asked for.
    cpu = not getattr(torch, "accelerator", torch.cuda).is_available()
    return accelerate.Accelerator(cpu=cpu, mixed_precision=PRECISIONS[precision], kwargs_handlers=handlers)
