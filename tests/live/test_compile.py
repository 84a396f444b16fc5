"""Attached adapters under ``torch.compile``."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lokr_core import Adapter, Factor, LoKrWeights, attach
from tests.live.merged import merged_output
from tests.norms import relative


@pytest.mark.every_value
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_compiled_in_one_graph(make_lokr, backend, kind):
    if backend == "inductor" and not any(map(shutil.which, ("g++", "clang++", "cl"))):
        pytest.skip("NO C++ COMPILER HERE: torch.compile's inductor is not tested")
    torch.compiler.reset()
    torch.manual_seed(0)
    layer = nn.Linear(8, 12) if kind == "linear" else nn.Conv2d(8, 12, 3, padding=1)
    model, x = nn.Sequential(layer), torch.randn(2, 8, *([] if kind == "linear" else [5, 5]))
    adapter = Adapter({"0": make_lokr(tuple(layer.weight.shape))})
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    with torch.no_grad():
        base = compiled(x)
        with attach(model, adapter, 0.5) as handle:
            for strength in (0.5, 2.0, -1.0, 0.3, 0.0, 0.7, 1.1, 1.2, 1.3, 1.4, 1.5):
                handle.strength = strength
                with torch.no_grad():
                    assert relative(compiled(x), merged_output(model, adapter, x, strength)) <= 1e-5, strength
            handle.enabled = False
            assert relative(compiled(x), base) <= 1e-6
            handle.enabled = True
        assert relative(compiled(x), base) <= 1e-6, "removed after compilation"
        with attach(model, adapter, 0.5):
            assert relative(compiled(x), merged_output(model, adapter, x, 0.5)) <= 1e-5, "attached after compilation"


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_thirteen_strengths_compile_twice_at_most(make_lokr, kind):
    """The first change of strength makes it a number of the graph; no other one compiles anything."""
    from torch._dynamo.testing import CompileCounter

    torch.compiler.reset()
    layer = nn.Linear(8, 12) if kind == "linear" else nn.Conv2d(8, 12, 3, padding=1)
    model, x = nn.Sequential(layer), torch.randn(2, 8, *([] if kind == "linear" else [5, 5]))
    adapter, counter = Adapter({"0": make_lokr(tuple(layer.weight.shape))}), CompileCounter()
    with attach(model, adapter, 0.05) as handle, torch.no_grad():
        compiled = torch.compile(model, backend=counter)
        for step in range(13):
            handle.strength = 0.05 + step / 10
            assert relative(compiled(x), merged_output(model, adapter, x, handle.strength)) <= 1e-5
    assert counter.frame_count <= 2


@pytest.mark.parametrize("dora", ["out", "in"])
def test_compiled_with_dora(make_lokr, dora):
    torch.compiler.reset()
    model, x = nn.Sequential(nn.Linear(8, 12)), torch.randn(2, 8)
    adapter = Adapter({"0": make_lokr((12, 8), dora=dora)})
    with attach(model, adapter, 0.5) as handle, torch.no_grad():
        compiled = torch.compile(model, backend="eager")
        for strength in (0.5, 1.0, -1.0):
            handle.strength = strength
            assert relative(compiled(x), merged_output(model, adapter, x, strength)) <= 1e-5
        model[0].weight.mul_(2)
        assert relative(compiled(x), merged_output(model, adapter, x, -1.0)) <= 1e-5


def test_importing_the_library_does_not_load_the_compiler():
    """It takes a second, and ``attach`` has it forget what it compiled only where it is in use."""
    code = "import sys, lokr_core; assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


class _Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        return self.layer(x)


class _Broken(nn.Module):
    """Blocks that share their code, each compiled by itself: what is between them can't be."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([_Block() for _ in range(3)])

    def forward(self, x):
        for block in self.blocks:
            torch._dynamo.graph_break()
            x = block(x)
        return x


def test_compiled_blocks_that_share_their_code_are_told_apart_by_their_adapters():
    import torch._dynamo

    torch._dynamo.reset()
    torch._dynamo.config.skip_nnmodule_hook_guards = True  # as a fresh process has it
    model, x = _Broken(), torch.randn(2, 6)
    weights = LoKrWeights(Factor(torch.randn(2, 3)), Factor(torch.randn(3, 2)))
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad(), attach(model, Adapter({"blocks.1.layer": weights})) as handle:
        expected = model(x)
        torch.testing.assert_close(compiled(x), expected)
        handle.enabled = False
        assert not torch.allclose(model(x), expected)
        torch.testing.assert_close(compiled(x), model(x))
