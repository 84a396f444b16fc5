"""The training loop: it learns, stops and goes on, and says what is wrong."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from lokr_core import LoKrConfig, LoKrError, LoKrFileError, LoKrModel, LoKrValueError, get_lokr_model
from lokr_core._files import read_header, save_tensors
from lokr_core.display import plot_losses
from lokr_core.training import Batch, TrainSettings, accelerator_for, train

pytest.importorskip(
    "torch.distributed.checkpoint.state_dict", reason="TORCH BEFORE 2.2 HERE: it cannot save a training's state"
)
EXAMPLES = 5
SETTINGS = TrainSettings(steps=9, batch_size=2, learning_rate=1e-2, save_every=4)


def network(width: int = 12, **fields) -> LoKrModel:
    torch.manual_seed(0)
    config = LoKrConfig(r=2, alpha=4, target_modules=["0", "2"], **fields)
    return get_lokr_model(nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 8)), config)


def loss_of(model: nn.Module, batch: Batch) -> torch.Tensor:
    clean = torch.eye(8)[batch.indices]
    return F.mse_loss(model(clean + 0.1 * batch.randn(8)), clean)


def run(out, settings: TrainSettings = SETTINGS, model: LoKrModel | None = None, loss=loss_of, saved=None):
    model = model or network()
    return model, train(model, loss, EXAMPLES, settings, out, (saved or []).append)


def test_it_learns_and_leaves_what_it_promises(tmp_path):
    saved, told = [], []
    settings = replace(SETTINGS, steps=60, learning_rate=3e-2)
    losses = train(network(), loss_of, EXAMPLES, settings, tmp_path, saved.append, progress=lambda *n: told.append(n))
    assert len(losses) == 60 and sum(losses[-10:]) < 0.5 * sum(losses[:10])
    assert json.loads((tmp_path / "losses.json").read_text()) == losses
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert saved == [True] * 15 and told[-1] == (60, 60)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["loss.png", "losses.json", "state.safetensors"]
    frozen = [name for name in read_header(tmp_path / "state.safetensors").tensors if "base_layer" in name]
    assert not frozen, "the base model is no part of the state"


def test_stopped_and_gone_on_it_is_what_it_would_have_been(tmp_path):
    """With dropout; the optimizer's moments, the order of the examples, their noise and the masks all have to fit."""
    model, whole = run(tmp_path / "whole", model=network(rank_dropout=0.2, module_dropout=0.2))

    def stops(model: nn.Module, batch: Batch) -> torch.Tensor:
        if batch.step == 6:
            raise KeyboardInterrupt
        return loss_of(model, batch)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", model=network(rank_dropout=0.2, module_dropout=0.2), loss=stops)
    torch.rand(7)  # whatever else drew numbers in between
    again, losses = run(tmp_path / "parts", model=network(rank_dropout=0.2, module_dropout=0.2))
    assert losses == whole
    assert all(map(torch.equal, again.parameters(), model.parameters()))


def test_each_epoch_takes_every_example_once_in_an_order_of_its_own(tmp_path):
    seen = []

    def looks(model: nn.Module, batch: Batch) -> torch.Tensor:
        seen.extend(batch.indices)
        return loss_of(model, batch)

    run(tmp_path, replace(SETTINGS, steps=10), loss=looks)
    epochs = [seen[start : start + EXAMPLES] for start in range(0, 20, EXAMPLES)]
    assert all(sorted(epoch) == list(range(EXAMPLES)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_a_batch_is_of_one_bucket_if_it_can_be(tmp_path, size):
    """Each epoch visits every example once; at most the examples that do not fill a batch of a bucket are mixed."""
    buckets, seen = ["a", "b", "a", "b", "a", "a", "b", "b", "b", "a", "c"], []

    def looks(model: nn.Module, batch: Batch) -> torch.Tensor:
        assert len({buckets[index] for index in batch.indices}) == 1, "a part is of one bucket in any case"
        seen.append((batch.step, batch.indices))
        return model(torch.eye(8)[[0] * len(batch.indices)]).mean()

    settings = replace(SETTINGS, steps=11, batch_size=size)
    train(network(), looks, len(buckets), settings, tmp_path, print, buckets=buckets)
    visits = [index for _, indices in seen for index in indices]
    for epoch in range(size):
        part = visits[epoch * len(buckets) : (epoch + 1) * len(buckets)]
        assert sorted(part) == list(range(len(buckets)))
    whole = [indices for _, indices in seen if len(indices) == size]
    mixed = [index for _, indices in seen if len(indices) < size for index in indices]
    assert size == 1 or len(whole) >= 4
    assert len(mixed) <= size * 3 * size  # fewer than a batch of each of three buckets, in each of `size` epochs


def test_accumulated_parts_are_the_batch(tmp_path):
    """Up to the order of sums: the loss of a batch is the mean of its parts', and so is its gradient."""
    settings = replace(SETTINGS, batch_size=4)
    whole, losses = run(tmp_path / "a", settings)
    parts, found = run(tmp_path / "b", replace(settings, accumulate=3))
    assert found == pytest.approx(losses, rel=1e-5)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))


@pytest.mark.parametrize(("schedule", "last"), [("constant", 1.0), ("linear", 1 / 16), ("cosine", 0.00961)])
def test_the_learning_rate_follows_its_schedule(schedule, last):
    settings = TrainSettings(steps=20, learning_rate=2.0, warmup=4, schedule=schedule)
    rates = [settings.rate(step) / 2 for step in range(20)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[4:] == sorted(rates[4:], reverse=True) and rates[-1] == pytest.approx(last, rel=1e-3)


def test_a_gradient_is_clipped_to_its_norm(tmp_path, monkeypatch):
    norms = []

    class Watched(torch.optim.AdamW):
        def step(self, closure=None):
            gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
            norms.append(float(torch.cat([gradient.flatten() for gradient in gradients]).norm()))
            return super().step(closure)

    monkeypatch.setattr("lokr_core.training._loop.optimizer_for", lambda parameters, settings: Watched(parameters))
    for clip in (0.0, 1e-3):
        norms.clear()
        run(tmp_path / str(clip), replace(SETTINGS, clip=clip))
        assert len(norms) == SETTINGS.steps and (max(norms) <= 1e-3 * (1 + 1e-5)) is bool(clip)


def test_prodigy_goes_on_with_the_rate_that_it_found(tmp_path):
    pytest.importorskip("prodigyopt", reason="NO PRODIGY HERE: pip install prodigyopt")
    settings = replace(SETTINGS, optimizer="prodigy", learning_rate=1.0)
    model, whole = run(tmp_path / "whole", settings)
    run(tmp_path / "parts", replace(settings, steps=4))
    again, losses = run(tmp_path / "parts", settings)
    assert losses == whole
    assert all(map(torch.equal, again.parameters(), model.parameters()))


class Wrapping(torch.optim.AdamW):
    """Has its moments in a dictionary within a parameter's state, as bitsandbytes' optimizers do."""

    def state_dict(self):
        found = super().state_dict()
        found["state"] = {n: {"step": s["step"], "held": {**s, "step": 0}} for n, s in found["state"].items()}
        return found

    def load_state_dict(self, state_dict):
        state = {n: {**s["held"], "step": s["step"]} for n, s in state_dict["state"].items()}
        super().load_state_dict({**state_dict, "state": state})


@pytest.mark.parametrize("optimizer", ["wrapping", "adamw8bit"])
def test_an_optimizer_with_nested_state_goes_on(tmp_path, monkeypatch, optimizer):
    settings = replace(SETTINGS, steps=9, save_every=4)
    if optimizer == "adamw8bit":
        pytest.importorskip("bitsandbytes", reason="NO BITSANDBYTES HERE: pip install bitsandbytes")
        settings = replace(settings, optimizer=optimizer)
    else:
        monkeypatch.setattr("lokr_core.training._loop.optimizer_for", lambda p, settings: Wrapping(p, 1e-2))
    # Parameters of 4,096 numbers and more have moments of 8 bits.
    network64 = partial(network, width=2048, full_matrix=True, decompose_factor=2)
    model, whole = run(tmp_path / "whole", settings, network64())
    run(tmp_path / "parts", replace(settings, steps=4), network64())
    again, losses = run(tmp_path / "parts", settings, network64())
    assert losses == whole and losses[-1] < losses[0]
    assert all(map(torch.equal, again.parameters(), model.parameters()))


@pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="TORCH BEFORE 2.3 HERE: no scaler on a CPU")
def test_fp16_with_a_scaler_skips_a_step_that_overflows_and_goes_on(tmp_path, request):
    state = pytest.importorskip("accelerate.state", reason="NO ACCELERATE HERE: it scales the loss")
    state.AcceleratorState._reset_state()  # one process has one precision
    request.addfinalizer(state.AcceleratorState._reset_state)
    scales = []

    def half_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        return loss_of(lambda x: model(x.half()).float(), batch)

    def half(out, steps: int) -> tuple[LoKrModel, list[float]]:
        torch.manual_seed(0)
        base = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8)).half()
        model = get_lokr_model(base, LoKrConfig(r=2, alpha=4, target_modules=["0", "2"]))
        accelerator = accelerator_for("fp16")
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, growth_interval=100)
        settings = replace(SETTINGS, steps=steps)
        losses = train(model, half_loss, EXAMPLES, settings, out, lambda _: None, accelerator)
        scales.append(accelerator.scaler.get_scale())
        return model, losses

    model, whole = half(tmp_path / "whole", 32)
    half(tmp_path / "parts", 8)
    again, losses = half(tmp_path / "parts", 32)
    assert 1 < scales[0] < 2.0**24 and scales[2] == scales[0]
    assert losses == whole and sum(losses[-8:]) < 0.95 * sum(losses[:8])
    assert all(map(torch.equal, again.parameters(), model.parameters()))


def test_a_package_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(LoKrError, match="This needs bitsandbytes") as error:
        run(tmp_path, replace(SETTINGS, optimizer="adamw8bit"))
    assert "pip install" in str(error.value)


def test_noise_belongs_to_a_place_in_the_batch_and_not_to_the_process(tmp_path):
    whole = Batch(3, [4, 1, 0, 2], [0, 1, 2, 3], seed=5)
    half = Batch(3, [0, 2], [2, 3], seed=5)
    assert torch.equal(whole.randn(4)[2:], half.randn(4))
    assert torch.equal(whole.randint(1000)[2:], half.randint(1000))
    assert not torch.equal(Batch(4, [0, 2], [2, 3], seed=5).randn(4), Batch(3, [0, 2], [2, 3], seed=5).randn(4))
    assert len(set(whole.rand().tolist())) == 4


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"steps": 0}, "steps must be a positive integer"),
        ({"batch_size": 1.5}, "batch_size must be a positive integer"),
        ({"save_every": -1}, "save_every"),
        ({"learning_rate": math.nan}, "learning_rate must be positive"),
        ({"warmup": -1}, "warmup must not be negative"),
        ({"clip": math.inf}, "clip must not be negative"),
        ({"accumulate": 0}, "accumulate must be a positive integer"),
        ({"schedule": "polynomial"}, "Unknown schedule"),
        ({"optimizer": "sgd"}, "Unknown optimizer"),
    ],
)
def test_settings_that_are_none(fields, said):
    with pytest.raises(LoKrValueError, match=said):
        TrainSettings(**fields)


def test_a_loss_that_is_not_finite_ends_the_training_before_it_spoils_the_state(tmp_path):
    def breaks(model: nn.Module, batch: Batch) -> torch.Tensor:
        return loss_of(model, batch) * (math.nan if batch.step == 5 else 1)

    with pytest.raises(LoKrValueError, match="The loss of step 6 is not a finite number"):
        run(tmp_path, loss=breaks)
    assert len(run(tmp_path)[1]) == SETTINGS.steps, "it goes on from the checkpoint before"


def test_a_folder_with_another_training_is_left_as_it_is(tmp_path):
    run(tmp_path)
    before = (tmp_path / "state.safetensors").read_bytes()
    with pytest.raises(LoKrFileError, match="another model or configuration") as error:
        run(tmp_path, model=network(width=16))
    assert "lokr_w" in str(error.value)
    with pytest.raises(LoKrFileError, match="a training with other settings") as error:
        run(tmp_path, replace(SETTINGS, seed=1))
    assert "'seed': 0" in str(error.value) and "'seed': 1" in str(error.value)
    assert (tmp_path / "state.safetensors").read_bytes() == before
    save_tensors({"a": torch.ones(1)}, tmp_path / "state.safetensors")
    with pytest.raises(LoKrFileError, match="Not a training checkpoint"):
        run(tmp_path)


def test_more_steps_may_be_asked_for_later(tmp_path):
    run(tmp_path / "a")
    _, losses = run(tmp_path / "a", replace(SETTINGS, steps=14))
    assert losses == run(tmp_path / "b", replace(SETTINGS, steps=14))[1]


def test_a_learning_rate_may_be_lowered_on_the_way(tmp_path):
    before = [p.detach().clone() for p in run(tmp_path)[0].parameters()]
    model, _ = run(tmp_path, replace(SETTINGS, steps=10, learning_rate=1e-9))
    assert all(torch.allclose(a, b, atol=1e-8) for a, b in zip(before, model.parameters(), strict=True))


def test_nothing_to_train_on(tmp_path):
    with pytest.raises(LoKrError, match="No examples to train on"):
        train(network(), loss_of, 0, SETTINGS, tmp_path, print)


@pytest.mark.parametrize("losses", [[1.0], [2.0, 2.0], [3.0, 1.0, 2.0], [1e-8, 1e8], list(range(1000))])
def test_a_plot_of_any_losses(tmp_path, losses):
    plot_losses(losses, tmp_path / "loss.png")
    with Image.open(tmp_path / "loss.png") as picture:
        colours = {colour for _, colour in picture.getcolors(1 << 16)}
        assert picture.size == (640, 360) and (25, 80, 170) in colours
