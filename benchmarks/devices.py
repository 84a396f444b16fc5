"""An accelerator of any kind that torch has (cuda, xpu, mps), or the CPU for a dry run: waiting, memory, name."""

from __future__ import annotations

import gc
import platform
from collections.abc import Callable
from typing import Any

import torch

from .measure import peak_allocated

__all__ = ["accelerator", "allocated", "card", "free", "peak", "waiter"]

KINDS = ("cuda", "xpu", "mps")


def _library(device: torch.device) -> Any:
    return getattr(torch, device.type)


def accelerator() -> torch.device | None:
    """The first kind of device that is here. Returns None if there is only the CPU."""
    for kind in KINDS:
        library = torch.backends.mps if kind == "mps" else getattr(torch, kind, None)
        if library is not None and library.is_available():
            return torch.device(kind)
    return None


def card(device: torch.device) -> str:
    """The device's name, with its memory where torch knows it."""
    library = _library(device)
    if not hasattr(library, "get_device_properties"):
        return f"{platform.machine()} {device.type}"
    properties = library.get_device_properties(device)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"


def waiter(device: torch.device) -> Callable[[], object]:
    """A function that returns when all work on the device is done."""
    library = _library(device)
    return library.synchronize if device.type == "mps" else lambda: library.synchronize(device)


def allocated(device: torch.device) -> int | None:
    """Bytes of tensors on the device. Returns None on a CPU, where torch does not count them."""
    library = _library(device)
    if device.type == "mps":
        return library.current_allocated_memory()
    return library.memory_allocated(device) if hasattr(library, "memory_allocated") else None


def peak(device: torch.device, run: Callable[[], object]) -> int | None:
    """The most bytes of tensors while ``run`` runs, beyond those from before. Returns None on mps: it keeps no peak."""
    if device.type == "cpu":
        return peak_allocated(run)
    library = _library(device)
    if not hasattr(library, "reset_peak_memory_stats"):
        return None
    library.synchronize(device)
    library.reset_peak_memory_stats(device)
    before = library.memory_allocated(device)
    run()
    library.synchronize(device)
    return library.max_memory_allocated(device) - before


def free(device: torch.device) -> None:
    """Give memory that nothing uses back to an accelerator; a CPU's is given back as it is."""
    if device.type != "cpu":
        gc.collect()
        _library(device).empty_cache()
