"""The fused kernel for GPUs adds what the blocks add. Triton's own interpreter runs it, since no test needs a GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import torch
from lokr_core.kronecker import Factor, _fused, add_kron_, materialize

_fused.KINDS.add("cpu")
calls = []
kernel = _fused._kernel

class Counted:
    def __getitem__(self, grid):
        calls.append(grid)
        return kernel[grid]

_fused._kernel = Counted()
torch.manual_seed(0)
low = Factor(a=torch.randn(7, 2), b=torch.randn(2, 5))
for w1, w2 in (
    (torch.randn(8, 8), torch.randn(40, 24)),
    (torch.randn(4, 5), low),
    (torch.randn(6, 4), torch.randn(5, 3, 3, 3)),
    (torch.randn(9, 4), torch.randn(1, 1)),
):
    w1, w2 = Factor.of(w1), Factor.of(w2)
    for dtype in (torch.float16, torch.bfloat16):
        product = materialize(w1, w2, torch.float64)
        weight = torch.randn(product.shape).to(dtype)
        exact = weight.double() + 0.37 * product
        add_kron_(weight, w1, w2, 0.37)
        error = (weight.double() - exact).abs()
        # One rounding: at most half a step of the dtype; the interpreter cuts bf16 off instead of rounding it.
        steps = 0.501 if dtype == torch.float16 else 1.001
        assert (error <= torch.finfo(dtype).eps * exact.abs() * steps + 1e-6).all(), error.max()
assert len(calls) == 8, calls

_fused._kernel = None  # fails when it is called: the blocks add instead, and nothing is added twice
weight = torch.zeros(32, 32, dtype=torch.bfloat16)
add_kron_(weight, torch.full((4, 4), 0.3), torch.full((8, 8), 0.3))
assert weight.unique().tolist() == [torch.tensor(0.09).bfloat16().item()]
assert _fused._failed
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton (pip install triton)")
def test_the_fused_kernel_rounds_once_and_falls_back_to_blocks():
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "merges go on in blocks" in done.stderr
