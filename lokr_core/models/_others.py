"""What others do to a model's weights: updates of their own, offloading."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def restored_from_copies(modules: Iterable[nn.Module]) -> set[int]:
    """The ids of the parameters whose numbers come back from a copy after each forward: a change of them is lost.

    diffusers' group offloading does so with a stream, or to the disk.
    """
    found: set[int] = set()
    for group in map(_offloaded, modules):
        if group is not None and (group.stream is not None or group.offload_to_disk_path):
            found.update(id(p) for module in group.modules for p in module.parameters())
            found.update(map(id, group.parameters))
    return found


def _offloaded(module: nn.Module) -> Any:
    """The group of modules that diffusers moves when ``module`` runs, None if it moves none."""
    registry: Any = getattr(module, "_diffusers_hook", None)
    hook = registry.get_hook("group_offloading") if registry is not None else None
    return getattr(hook, "group", None)


def sample(tensor: Tensor) -> Tensor:
    """At most 127 numbers of ``tensor`` in memory order, (n,): an update of a whole weight shows in them."""
    tensor = tensor.detach()
    step = max(1, tensor.numel() // 64)
    if (
        sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
        != tensor.numel()
    ):
        return tensor.flatten()[::step].clone()  # it has gaps, or repeats numbers
    length = -(-tensor.numel() // step)
    return tensor.as_strided((length,), (step,), tensor.storage_offset()).clone()


def same_sample(before: Tensor, now: Tensor) -> bool:
    """Whether two samples are of the same numbers, but for what adding and subtracting an update may leave."""
    a, b = before.to(now.device, now.dtype).double().nan_to_num(), now.double().nan_to_num()
    return bool((a - b).abs().max() <= 8 * torch.finfo(now.dtype).eps * a.abs().max()) if a.numel() else True
