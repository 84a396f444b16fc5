"""A campaign of mutated files: each is a right load or an error of ours; the base stays bit for bit, in bounded time
and memory. The seeds are fixed, so a failure names the file that it can be made again from."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file
from torch import nn

from lokr_core import LoKrError, LoKrMatchError, attach, load_adapter, merge_adapter, save_adapter
from lokr_core.inspection import inspect_adapter, outline
from tests.files.mutants import LAYERS, File, mutant, truth

CHUNK = 500
MORE = 64 * 2**20  # bytes above the file's


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Module() for _ in range(2)])
        for block in self.blocks:
            block.q = nn.Linear(6, 8)
        self.conv, self.out, self.norm = nn.Conv2d(6, 8, 3), nn.Linear(8, 6), nn.LayerNorm(8)

    def forward(self, x):
        x = self.norm(self.out(self.blocks[1].q(self.out(self.blocks[0].q(x)))) @ torch.ones(6, 8))
        return x.sum() + self.conv(torch.ones(1, 6, 3, 3)).sum()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Model()


@contextlib.contextmanager
def within(seconds: int):
    """Raises TimeoutError after ``seconds`` of computing, not by the clock, which goes on while a busy machine computes
    something else: a hang is a failure."""

    def stop(*_):
        raise TimeoutError(f"over {seconds} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def exercise(path: Path, model: nn.Module, base: dict[str, torch.Tensor]):
    """Everything that is done with a file. Returns its adapter, None if it was refused."""
    with contextlib.suppress(LoKrError):
        outline(path)
    try:
        adapter = load_adapter(path)
    except LoKrError as error:
        assert error.problem and str(path) in str(error)
        return None
    found = inspect_adapter(adapter)
    assert found.text() and found.as_dict()
    with contextlib.suppress(LoKrMatchError), merge_adapter(model, adapter, 0.7) as handle:
        assert handle.report.text()
    assert all(torch.equal(tensor, base[name]) for name, tensor in model.state_dict().items())
    with contextlib.suppress(LoKrError), attach(model, adapter, 0.7):
        model(torch.ones(2, 6))
    assert all(torch.equal(tensor, base[name]) for name, tensor in model.state_dict().items())
    again = path.with_name("again.safetensors")
    try:
        save_adapter(adapter, again)
    except LoKrError:
        return adapter
    assert load_adapter(again).keys() == adapter.keys()
    return adapter


def is_right(adapter, data: bytes, file: File, kept: bool) -> bool:
    """Whether every module adds what its tensors, read by safetensors itself, say. Fails if one adds something else."""
    if not kept or any(adapter.metadata.get(key) != value for key, value in file.metadata.items()):
        return False
    right = 0
    # PEFT's Conv1d has its factors the other way round, and says so.
    straight = [module for module in adapter if not any("w2 ⊗ w1" in note for note in adapter[module].notes)]
    for module, delta in truth(load(data), file, straight).items():
        try:
            found = adapter[module].delta(torch.float64)
        except LoKrError:  # a first factor with a kernel: no weight takes it
            continue
        assert torch.allclose(found.flatten(), delta.flatten(), rtol=1e-4, atol=1e-6), module
        right += 1
    return right == len(adapter) == len(LAYERS)


def memory(what: str) -> int:
    """A line of this process' memory, in bytes: "VmRSS" (now) or "VmHWM" (the highest since it was reset)."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) * 1024


def run(seeds: range, folder: Path, model: nn.Module) -> Counter:
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path, beside = folder / "a.safetensors", folder / "adapter_config.json"
    counts: Counter[str] = Counter()
    for seed in seeds:
        data, file, kept = mutant(seed)
        path.write_bytes(data)
        beside.unlink(missing_ok=True)
        if file.config is not None:
            beside.write_text(file.config)
        try:
            with within(20):
                adapter = exercise(path, model, base)
                right = adapter is not None and is_right(adapter, data, file, kept)
        except Exception as error:
            raise AssertionError(f"mutant({seed}): {type(error).__name__}: {error}") from error
        counts["refused" if adapter is None else "right" if right else "in part"] += 1
    return counts


def check(seeds: range, folder: Path, model: nn.Module) -> None:
    run(range(seeds.start, seeds.start + 20), folder, model)  # what is imported and cached once
    measured = os.access("/proc/self/clear_refs", os.W_OK)
    if measured:
        Path("/proc/self/clear_refs").write_text("5")
        before = memory("VmRSS")
    counts = run(seeds, folder, model)
    assert counts["right"] >= 0.3 * len(seeds), counts
    assert counts["refused"] >= 0.1 * len(seeds), counts
    if measured:
        assert memory("VmHWM") - before < MORE


@pytest.mark.parametrize("start", range(0, 3000, CHUNK))
def test_thousands_of_mutated_files(start, tmp_path, model):
    check(range(start, start + CHUNK), tmp_path, model)


@pytest.mark.campaign
@pytest.mark.parametrize("start", range(0, 100_000, 5000))
def test_a_hundred_thousand_mutated_files(start, tmp_path, model):
    check(range(start, start + 5000), tmp_path, model)


@pytest.mark.parametrize("form", ["LoKr", "LoRA"])
def test_factors_whose_product_would_be_a_million_by_a_million(form, tmp_path, model):
    """What they would make is never built, so that all but the merge works, and the merge is refused."""
    one = torch.ones(1000, 1000, dtype=torch.float16)
    tensors = {"blocks.0.q.lokr_w1": one, "blocks.0.q.lokr_w2": one.clone()}
    if form == "LoRA":
        tensors = {"out.lokr_w1": one[:2, :2].clone(), "out.lokr_w2": one[:3, :4].clone(),
                   "blocks.0.q.lora_A.weight": torch.ones(1, 10**6),
                   "blocks.0.q.lora_B.weight": torch.ones(10**6, 1)}  # fmt: skip
    path = tmp_path / "a.safetensors"
    save_file(tensors, str(path))
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")
        before = memory("VmRSS")
    with within(60):
        adapter = exercise(path, model, base)
    assert adapter is not None
    if os.access("/proc/self/clear_refs", os.W_OK):
        assert memory("VmHWM") - before < MORE + 4 * path.stat().st_size


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("up", [(), (8,), (8, 0), (8, 1), (8, 1, 1, 1)])
@pytest.mark.parametrize("down", [(), (6,), (0, 6), (1, 6), (1, 6, 1, 1)])
def test_a_lora_beside_a_lokr_whose_halves_have_any_axes(up, down, rank, tmp_path, model):
    """An IndexError and a ZeroDivisionError of July 2026: applied if both halves fit, else refused by name."""
    tensors = {"out.lokr_w1": torch.ones(2, 2), "out.lokr_w2": torch.ones(3, 4), "out.alpha": torch.tensor(1.0),
               "blocks.0.q.lora_up.weight": torch.ones(up), "blocks.0.q.lora_down.weight": torch.ones(down),
               "blocks.0.q.alpha": torch.ones(rank)}  # fmt: skip
    save_file(tensors, str(tmp_path / "a.safetensors"))
    with merge_adapter(model, load_adapter(tmp_path / "a.safetensors")) as handle:
        fits = rank == 1 and len(up) > 1 and len(down) > 1 and 0 not in (*up, *down)
        assert [entry.module for entry in handle.report.refused] == ([] if fits else ["blocks.0.q"])
