"""Two processes train what one does; killed and started again, a training comes to the same numbers."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch

from lokr_core._files import load_tensors

pytest.importorskip(
    "torch.distributed.checkpoint.state_dict", reason="TORCH BEFORE 2.2 HERE: it cannot save a training's state"
)
pytest.importorskip("accelerate", reason="NO ACCELERATE HERE: it starts the processes of a training")
PROJECT = Path(__file__).resolve().parents[2]
SCRIPT = PROJECT / "tests" / "distributed" / "training.py"
STEPS, SAVE_EVERY = 24, 5

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available() or not hasattr(os, "fork"),
    reason="NO GLOO OR NO FORK HERE: nothing of training in several processes is tested",
)


def environment() -> dict[str, str]:
    paths = [str(PROJECT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}


@dataclass(frozen=True)
class Trainings:
    """Runs scripts in one process or several; see forks.py."""

    server: subprocess.Popen

    def exit_codes(self, out: Path, count: int, *arguments: str, script: Path = SCRIPT) -> list[int]:
        """Those of a training's processes; what they print is in OUT/log."""
        out.mkdir(parents=True, exist_ok=True)
        options = ["--out", str(out), "--steps", str(STEPS), "--save-every", str(SAVE_EVERY), *arguments]
        job = {"script": str(script), "arguments": options, "count": count, "log": str(out / "log")}
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def run(self, out: Path, count: int, *arguments: str, script: Path = SCRIPT) -> tuple[list[float], dict]:
        """(the loss of every step, the adapter's tensors) of a training from its start to its end."""
        codes = self.exit_codes(out, count, *arguments, script=script)
        assert not any(codes), (out / "log").read_text()[-4000:]
        return result(out)


def result(out: Path) -> tuple[list[float], dict]:
    return json.loads((out / "losses.json").read_text()), load_tensors(out / "lokr.safetensors")[0]


@pytest.fixture(scope="module")
def trainings() -> Iterator[Trainings]:
    modules = ["lokr_core.training", "torch.distributed.checkpoint.state_dict", "torch.distributed.fsdp"]
    modules += ["torch.distributed.device_mesh", "accelerate", "diffusers.models.unets.unet_2d_condition"]
    modules += ["lokr_core.diffusion", "diffusers.pipelines.flux.pipeline_flux", "diffusers.loaders.single_file_utils"]
    command = [sys.executable, Path(__file__).with_name("forks.py"), *modules]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment(), stdin=pipe, stdout=pipe, text=True) as server:
        yield Trainings(server)
        server.stdin.close()


DROPOUT = ("--dropout", "0.2")  # so that random generators count as well


@pytest.fixture(scope="module")
def whole(trainings, tmp_path_factory) -> Callable[[str, int], tuple[list[float], dict]]:
    """A training that nothing interrupts, by its way to spread the model and its number of processes."""

    @cache
    def trained(how: str, count: int) -> tuple[list[float], dict]:
        return trainings.run(tmp_path_factory.mktemp("whole"), count, "--parallel", how, *DROPOUT)

    return trained


@pytest.fixture(scope="module")
def alone(whole) -> tuple[list[float], dict]:
    return whole("ddp", 1)


def assert_same(found: tuple[list[float], dict], expected: tuple[list[float], dict], loss: float, weight: float):
    """loss: the largest difference of a step's; weight: the norm of the adapters' difference, relative to theirs."""
    assert len(found[0]) == len(expected[0])
    assert max(abs(a - b) for a, b in zip(found[0], expected[0], strict=True)) <= loss
    assert found[1].keys() == expected[1].keys()
    factors = [name for name in expected[1] if "lokr_" in name]
    ours, theirs = (torch.cat([adapter[1][name].flatten() for name in factors]) for adapter in (found, expected))
    assert float((ours - theirs).norm()) <= weight * float(theirs.norm())


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_two_processes_train_what_one_does(alone, whole, how):
    if how == "fsdp":
        pytest.importorskip("torch.distributed.fsdp", reason="NO FSDP2 HERE")
    found = whole(how, 2)
    assert found[0][-1] < 0.9 * found[0][0], "it learns"
    assert_same(found, alone, 1e-5, 1e-5)


@pytest.mark.parametrize(("how", "count"), [("ddp", 1), ("ddp", 2), ("fsdp", 2)])
def test_killed_and_started_again_it_comes_to_the_same_numbers(tmp_path, trainings, whole, how, count):
    options = ("--parallel", how, *DROPOUT)
    step = random.randrange(SAVE_EVERY, STEPS)
    assert any(trainings.exit_codes(tmp_path, count, *options, "--die-at", str(step)))
    kept = len(json.loads((tmp_path / "losses.json").read_text()))
    assert kept == step // SAVE_EVERY * SAVE_EVERY
    assert_same(trainings.run(tmp_path, count, *options), whole(how, count), 0.0, 0.0)


def test_the_dreambooth_example_trains_in_two_processes(tmp_path, trainings):
    pytest.importorskip("diffusers", reason="NO DIFFUSERS HERE: it makes the UNet")
    script, options = PROJECT / "examples" / "train_dreambooth.py", ("--steps", "3", "--batch-size", "2")
    alone = trainings.run(tmp_path / "1", 1, *options, script=script)
    assert_same(trainings.run(tmp_path / "2", 2, *options, script=script), alone, 1e-5, 1e-5)


@pytest.fixture(scope="module")
def flux(tmp_path_factory) -> tuple[str, str]:
    """The folders of a tiny Flux pipeline and of four pictures of two sizes."""
    pytest.importorskip("diffusers", reason="NO DIFFUSERS HERE: it makes the model")
    pytest.importorskip("transformers", reason="NO TRANSFORMERS HERE: it makes the text encoders")
    from PIL import Image

    from tests.diffusion.tiny_pipelines import saved

    base = tmp_path_factory.mktemp("flux")
    (base / "pictures").mkdir()
    for number in range(4):
        Image.effect_noise((32, 32 + number // 2 * 24), 60).save(base / "pictures" / f"{number}.png")
    return str(saved("flux", base / "flux")), str(base / "pictures")


TRAIN = ("--size", "32", "--rank", "2", "--batch-size", "4", "--text-encoders", "--rank-dropout", "0.2", "--steps", "4")


def test_lokr_train_in_two_processes_trains_what_it_does_in_one(tmp_path, trainings, flux):
    """With batches of two sizes, of which each process computes the same number of parts."""
    script = PROJECT / "tests" / "distributed" / "command.py"
    alone = trainings.run(tmp_path / "1", 1, *TRAIN, *flux, script=script)
    found = trainings.run(tmp_path / "2", 2, *TRAIN, *flux, script=script)
    assert_same(found, alone, 1e-5, 1e-5)


@pytest.mark.exhaustive
def test_accelerate_launch_starts_lokr_train(tmp_path, flux):
    found = {}
    for count in ("1", "2"):
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", count]
        command = [*launch, "--module", "lokr_core.cli", "train", *flux, "-o", str(tmp_path / count), *TRAIN]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-4000:]
        found[count] = result(tmp_path / count)
    assert_same(found["2"], found["1"], 1e-5, 1e-5)


def test_a_state_of_one_process_goes_on_in_two_and_back(tmp_path, trainings, alone):
    trainings.run(tmp_path, 1, *DROPOUT, "--steps", "7")
    trainings.run(tmp_path, 2, "--parallel", "fsdp", *DROPOUT, "--steps", "13")
    assert_same(trainings.run(tmp_path, 1, *DROPOUT), alone, 1e-5, 1e-5)


def test_accelerate_trains_in_two_processes_what_it_does_in_one(tmp_path):
    script, found = PROJECT / "tests" / "distributed" / "accelerated.py", {}
    for count in (1, 2):
        out = tmp_path / str(count)
        out.mkdir()
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if count == 2 else []
        command = [sys.executable, *launch, str(script), str(out)]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-4000:]
        found[count] = result(out)
    assert_same(found[2], found[1], 1e-5, 1e-5)
