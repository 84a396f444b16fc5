"""``add_kron_`` of a half precision weight as one kernel, for GPUs that Triton compiles for."""

from __future__ import annotations

import logging
from math import prod

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # Triton is not there for each system and kind of device
    triton = None

KINDS = {"cuda"}
"""The kinds of device that the kernel is used on. ROCm's devices have this name too."""
BLOCK = 1024
SHARE = 8  # the fp32 copy of w2 may take this part of the weight's memory
_log = logging.getLogger("lokr_core")
_failed = False

if triton is not None:

    @triton.jit(do_not_specialize=["numbers", "k", "m", "run"])
    def _kernel(weight, w1, w2, scale, numbers, k, m, run, block: tl.constexpr):
        """weight, flat (l, k, m, run), += scale * w1 (l, m) * w2 (k, run), each number rounded once."""
        at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
        inside = at < numbers
        row, column = at // (m * run), at % (m * run)
        first = tl.load(w1 + row // k * m + column // run, mask=inside)
        second = tl.load(w2 + row % k * run + column % run, mask=inside)
        before = tl.load(weight + at, mask=inside)
        after = before.to(tl.float32) + scale * first * second
        tl.store(weight + at, after.to(before.dtype), mask=inside)


def has_kernel(view: Tensor) -> bool:
    """Whether one kernel can add to ``view``, (l, k, m, n, *kernel) of a weight, as far as can be told before."""
    return (
        triton is not None
        and not _failed
        and view.device.type in KINDS
        and view.is_contiguous()
        and view.dtype in (torch.float16, torch.bfloat16)
        and _numbers_of_w2(view) * torch.float32.itemsize * SHARE <= view.numel() * view.element_size()
    )


def _numbers_of_w2(view: Tensor) -> int:
    return view.shape[1] * prod(view.shape[3:])


def fused_add_(view: Tensor, w1: Tensor, w2: Tensor, scale: float) -> bool:
    """``view += scale * (w1 ⊗ w2)`` in one kernel, in place. Returns False if it fails; nothing has changed then.

    view: (l, k, m, n, *kernel), ``has_kernel``; w1: (l, m), w2: (k, n, *kernel), in fp32 on the view's device

    One kernel serves all shapes, so it is compiled once for each of the two dtypes.
    """
    global _failed
    run, grid = prod(view.shape[3:]), (triton.cdiv(view.numel(), BLOCK),)
    factors = w1.contiguous(), w2.contiguous()
    try:
        with torch.cuda.device_of(view):
            _kernel[grid](view, *factors, scale, view.numel(), view.shape[1], view.shape[2], run, BLOCK)
    except Exception as error:  # no compiler on this machine, or a card that Triton does not know
        _failed = True
        _log.warning("Triton does not compile here (%s: %s); merges go on in blocks", type(error).__name__, error)
        return False
    return True
