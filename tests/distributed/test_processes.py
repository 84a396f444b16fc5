"""Two processes train what one does; killed and started again, a training comes to the same numbers."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lokr_core._files import load_tensors

pytest.importorskip(
    "torch.distributed.checkpoint.state_dict", reason="TORCH BEFORE 2.2 HERE: it cannot save a training's state"
)
PROJECT = Path(__file__).resolve().parents[2]
SCRIPT = PROJECT / "tests" / "distributed" / "training.py"
STEPS, SAVE_EVERY = 24, 5

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="NO GLOO HERE: nothing of training in several processes is tested",
)


def command(out: Path, count: int, *arguments: str, script: Path = SCRIPT) -> list[str]:
    many = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []
    options = ["--out", str(out), "--steps", str(STEPS), "--save-every", str(SAVE_EVERY), *arguments]
    return [sys.executable, *many, str(script), *options]


def environment() -> dict[str, str]:
    paths = [str(PROJECT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def trained(out: Path, count: int, *arguments: str, script: Path = SCRIPT) -> tuple[list[float], dict]:
    """(the loss of every step, the adapter's tensors) of a training from its start to its end."""
    done = subprocess.run(
        command(out, count, *arguments, script=script), env=environment(), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((out / "losses.json").read_text()), load_tensors(out / "lokr.safetensors")[0]


DROPOUT = ("--dropout", "0.2")  # so that random generators count as well


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> tuple[list[float], dict]:
    return trained(tmp_path_factory.mktemp("alone"), 1, *DROPOUT)


def assert_same(found: tuple[list[float], dict], expected: tuple[list[float], dict], loss: float, weight: float):
    """loss: the largest difference of a step's; weight: the norm of the adapters' difference, relative to theirs."""
    assert len(found[0]) == len(expected[0])
    assert max(abs(a - b) for a, b in zip(found[0], expected[0], strict=True)) <= loss
    assert found[1].keys() == expected[1].keys()
    factors = [name for name in expected[1] if "lokr_" in name]
    ours, theirs = (torch.cat([adapter[1][name].flatten() for name in factors]) for adapter in (found, expected))
    assert float((ours - theirs).norm()) <= weight * float(theirs.norm())


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_two_processes_train_what_one_does(tmp_path, alone, how):
    if how == "fsdp":
        pytest.importorskip("torch.distributed.fsdp", reason="NO FSDP2 HERE")
    found = trained(tmp_path, 2, "--parallel", how, *DROPOUT)
    assert found[0][-1] < 0.9 * found[0][0], "it learns"
    assert_same(found, alone, 1e-5, 1e-5)


@pytest.mark.parametrize(("how", "count"), [("ddp", 1), ("ddp", 2), ("fsdp", 2)])
def test_killed_and_started_again_it_comes_to_the_same_numbers(tmp_path, alone, how, count):
    options = ("--parallel", how, *DROPOUT)
    whole = alone if count == 1 else trained(tmp_path / "whole", count, *options)
    out = tmp_path / "killed"
    step = random.randrange(SAVE_EVERY, STEPS)
    killed = command(out, count, *options, "--die-at", str(step))
    assert subprocess.run(killed, env=environment(), capture_output=True, timeout=240).returncode != 0
    kept = len(json.loads((out / "losses.json").read_text()))
    assert kept == step // SAVE_EVERY * SAVE_EVERY
    assert_same(trained(out, count, *options), whole, 0.0, 0.0)


def test_the_dreambooth_example_shards_a_unet(tmp_path):
    pytest.importorskip("diffusers", reason="NO DIFFUSERS HERE: it makes the UNet")
    pytest.importorskip("torch.distributed.fsdp", reason="NO FSDP2 HERE")
    script, options = PROJECT / "examples" / "train_dreambooth.py", ("--steps", "3", "--batch-size", "2")
    alone = trained(tmp_path / "1", 1, *options, script=script)
    assert_same(trained(tmp_path / "2", 2, *options, "--parallel", "fsdp", script=script), alone, 1e-5, 1e-5)


def test_a_state_of_one_process_goes_on_in_two_and_back(tmp_path, alone):
    first = [*command(tmp_path, 1, *DROPOUT), "--steps", "7"]
    subprocess.run(first, env=environment(), check=True, capture_output=True, timeout=240)
    second = [*command(tmp_path, 2, "--parallel", "fsdp", *DROPOUT), "--steps", "13"]
    subprocess.run(second, env=environment(), check=True, capture_output=True, timeout=240)
    assert_same(trained(tmp_path, 1, *DROPOUT), alone, 1e-5, 1e-5)


def test_accelerate_trains_in_two_processes_what_it_does_in_one(tmp_path):
    pytest.importorskip("accelerate", reason="NO ACCELERATE HERE")
    script, found = PROJECT / "tests" / "distributed" / "accelerated.py", {}
    for count in (1, 2):
        out = tmp_path / str(count)
        out.mkdir()
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if count == 2 else []
        done = subprocess.run(
            [sys.executable, *launch, str(script), str(out)],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        found[count] = json.loads((out / "losses.json").read_text()), load_tensors(out / "lokr.safetensors")[0]
    assert_same(found[2], found[1], 1e-5, 1e-5)
