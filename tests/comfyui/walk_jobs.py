"""A job of in_host.py: which of this project's functions a LoKr goes through, from a node's ``execute`` to its first
product."""

from __future__ import annotations

import sys

import torch
from comfy.model_patcher import ModelPatcher
from live_jobs import ours, pack, write
from torch.overrides import TorchFunctionMode

import __main__ as host

PRODUCTS = {
    "matmul",
    "mm",
    "bmm",
    "addmm",
    "addmm_",
    "baddbmm",
    "baddbmm_",
    "addcmul",
    "addcmul_",
    "kron",
    "linear",
    "mul",
}


def stack() -> list[list[str]]:
    """[file, function] of each of the project's functions that is running, the outermost first."""
    root = pack("nodes").__path__[0].removesuffix("nodes")
    frame, found = sys._getframe(1), []
    while frame is not None:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if file.startswith(root) and "/tests/" not in file and not name.startswith("<"):
            found.append([file.removeprefix(root), name])
        frame = frame.f_back
    return found[::-1]


class FirstProduct(TorchFunctionMode):
    """Notes the stack at the first product of two matrices that the project computes."""

    def __init__(self):
        super().__init__()
        self.found: list[list[str]] | None = None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        matrices = [one for one in args if isinstance(one, torch.Tensor) and one.ndim > 1]
        if self.found is None and func.__name__ in PRODUCTS and len(matrices) > 1:
            found = stack()
            if found and found[-1][0].startswith("lokr_core"):
                self.found = found
        return func(*args, **(kwargs or {}))


def walks(model: str, file: str, out: str) -> None:
    """For each mode the stacks at which ComfyUI gets the patch or the injection, and at the first product."""
    base, _ = host.load(model)
    found = {}
    for mode, method in (("merge", "add_patches"), ("live", "set_injections")):
        handed, original = [], getattr(ModelPatcher, method)

        def record(self, *args, handed=handed, original=original, **kwargs):
            handed.append(stack())
            return original(self, *args, **kwargs)

        setattr(ModelPatcher, method, record)
        try:
            patched = ours(base, file, 0.7, mode)[0]
        finally:
            setattr(ModelPatcher, method, original)
        with FirstProduct() as product:
            host.sample(patched)
        found[mode] = {"handed": handed[0], "product": product.found}
    write(out, found)


JOBS = {"walks": walks}
