"""A training whose passes a host runs: its steps, and that a resumed one gives the numbers of an unbroken one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lokr_core import LoKrFileError, LoKrValueError
from lokr_core.training import TrainingSession, TrainSettings
from lokr_core.tuner import LoKrConfig, LoKrLayers, trainable_modules

SAME = {"model": "base.safetensors", "rank": 2}


def parts(**settings) -> tuple[nn.Module, LoKrLayers, TrainingSession]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 8), nn.GELU(), nn.Linear(8, 12))
    config = LoKrConfig(r=2, decompose_factor=2, rank_dropout=0.2, init_weights="lycoris", order="lycoris")
    layers = LoKrLayers(model, trainable_modules(model), config)
    settings = {"learning_rate": 0.05, "accumulate": 2, "warmup": 2, "clip": 1.0, **settings}
    return model, layers, TrainingSession(layers.parameters(), TrainSettings(**settings))


def train(model: nn.Module, layers: LoKrLayers, session: TrainingSession, steps: int) -> None:
    session.begin()
    layers.train()
    with layers.inserted():
        while session.steps < steps:
            x = torch.randn(5, 12)
            session.backward((model(x) - x.flip(1)).square().mean())


def values(layers: LoKrLayers) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in layers.parameters().items()}


def test_a_resumed_session_gives_the_numbers_of_an_unbroken_one(tmp_path: Path):
    model, layers, whole = parts()
    train(model, layers, whole, 7)
    expected = values(layers)
    model, layers, first = parts()
    train(model, layers, first, 3)
    with layers.inserted():
        first.backward((model(torch.randn(5, 12))).square().mean())  # a pass of a step that is never taken
    first.save(tmp_path / "state", SAME)
    model, layers, second = parts()
    second.resume(tmp_path / "state", SAME)
    assert second.steps == 3
    train(model, layers, second, 7)
    assert second.losses == whole.losses
    assert all(torch.equal(tensor, expected[name]) for name, tensor in values(layers).items())


def test_another_rank_or_model_is_refused_and_nothing_changes(tmp_path: Path):
    model, layers, session = parts()
    train(model, layers, session, 1)
    session.save(tmp_path / "state", SAME)
    _, layers, other = parts()
    before = values(layers)
    with pytest.raises(LoKrFileError) as error:
        other.resume(tmp_path / "state", {**SAME, "rank": 4})
    assert (error.value.expected, error.value.found) == ({"rank": 2}, {"rank": 4})
    assert all(torch.equal(tensor, before[name]) for name, tensor in values(layers).items())
    (tmp_path / "broken").write_bytes((tmp_path / "state").read_bytes()[:-10])
    with pytest.raises(LoKrFileError):
        other.resume(tmp_path / "broken", SAME)
    assert other.steps == 0


def test_a_loss_or_a_parameter_that_is_not_finite_is_refused_and_the_checkpoint_stays(tmp_path: Path):
    model, layers, session = parts()
    train(model, layers, session, 1)
    session.save(tmp_path / "state", SAME)
    stored = (tmp_path / "state").read_bytes()
    with pytest.raises(LoKrValueError, match="step 2"):
        session.backward(torch.tensor(float("nan"), requires_grad=True))
    assert session.steps == 1
    with torch.no_grad():
        next(iter(layers.parameters().values())).fill_(torch.inf)
    with pytest.raises(LoKrValueError, match="not finite"):
        session.save(tmp_path / "state", SAME)
    assert (tmp_path / "state").read_bytes() == stored


def test_there_must_be_something_to_train():
    with pytest.raises(LoKrValueError, match="nothing to train"):
        TrainingSession({}, TrainSettings())
