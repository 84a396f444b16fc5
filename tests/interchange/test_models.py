"""What is trained here is written for everyone, and what anyone trained goes on training here."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lokr_core import (
    Adapter,
    Factor,
    LoKrConfig,
    LoKrValueError,
    LoKrWeights,
    get_lokr_model,
    load_adapter,
    merge_adapter,
    save_adapter,
)
from lokr_core.saving import SPELLINGS
from lokr_core.tuner import load_lokr_model
from tests.interchange.adapters import BOTH, FORMS, LOW, WHOLE, Layers, adapter_for

CONFIGS = {
    "seed": dict(r=8, alpha=16, decompose_factor=-1),
    "both": dict(r=2, alpha=4, decompose_both=True, decompose_factor=8),
    "effective": dict(r=2, alpha=1, use_effective_conv2d=True),
    "lycoris": dict(r=2, alpha=1, order="lycoris", use_effective_conv=True, rs_lora=True, decompose_factor=4),
    "dora": dict(r=2, alpha=4, dora="out", order="lycoris"),
    "dora in": dict(r=2, alpha=4, dora="in", order="lycoris"),
    "full": dict(full_matrix=True, order="lycoris", alpha=4),
}
TARGETS = ["linear", "conv2d", "pointwise", "conv1d"]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def trained(targets=TARGETS, **config):
    """A model with an adapter of random numbers, and what it answers in fp64."""
    model = get_lokr_model(Layers().double(), LoKrConfig(target_modules=targets, init_weights=False, **config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "dora" in name:
                parameter.mul_(1 + 0.3 * torch.rand_like(parameter))
    x = torch.randn(2, 24, dtype=torch.float64)
    return model, x, model(x).detach()


def near(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-6) -> bool:
    return float((found - expected).detach().norm() / expected.detach().norm()) < tolerance


@pytest.mark.every_value
@pytest.mark.parametrize("format", [None, *SPELLINGS])
@pytest.mark.parametrize("config", CONFIGS)
def test_a_trained_model_is_what_its_file_is(tmp_path, config, format):
    peft = format in ("peft", "diffusers")
    # A Conv1d whose w2 is whole is W2 ⊗ W1 for PEFT alone: save_pretrained keeps it.
    model, x, expected = trained(TARGETS[: 3 if peft else 4], **CONFIGS[config])
    path = tmp_path / "a.safetensors"
    if peft and "dora" in config:
        with pytest.raises(LoKrValueError, match="PEFT's LoKr has no DoRA"):
            save_adapter(model, path, format=format)
        return
    save_adapter(model, path, format=format)
    base = Layers().double()
    base.load_state_dict(model.unload().state_dict())
    assert not near(base(x), expected, 1e-3)
    with torch.no_grad(), merge_adapter(base, load_adapter(path)) as handle:
        assert handle.report.complete
        assert near(base(x), expected)
    again = load_lokr_model(base, path)
    assert near(again(x), expected)


@pytest.mark.every_value
@pytest.mark.parametrize("format", ["kohya", "lycoris", "comfyui", "peft", "diffusers"])
@pytest.mark.parametrize("form", FORMS)
def test_any_file_goes_on_training_in_its_own_form(tmp_path, form, format):
    base, x = Layers().double(), torch.randn(2, 24, dtype=torch.float64)
    skip = ("conv1d",) if format in ("peft", "diffusers") and form in (WHOLE, "w1 low-rank") else ()
    adapter = adapter_for(base, form, skip)
    path = tmp_path / "a.safetensors"
    save_adapter(adapter, path, format=format, model=base)
    with torch.no_grad(), merge_adapter(base, adapter):
        expected = base(x)
    model = load_lokr_model(base, path)
    assert near(model(x), expected)
    count = sum(weights.numel for weights in load_adapter(path).values())
    assert model.get_nb_trainable_parameters()[0] == count
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-4)
    model(x).square().mean().backward()
    optimizer.step()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    moved = model(x).detach()
    assert moved.isfinite().all() and not near(moved, expected, 1e-9)
    save_adapter(model, tmp_path / "b.safetensors", format=format)
    assert near(load_lokr_model(model.unload(), tmp_path / "b.safetensors")(x), moved)


@pytest.mark.parametrize("options", [{}, {"decompose_both": True}, {"use_effective_conv2d": True}])
def test_what_peft_trained_goes_on_training(tmp_path, options):
    peft = pytest.importorskip("peft", reason="PEFT is the expected value of this test")
    base, x = Layers(), torch.randn(2, 24)
    config = peft.LoKrConfig(r=2, alpha=3, target_modules=TARGETS, init_weights=False, decompose_factor=8, **options)
    wrapped = peft.get_peft_model(base, config)
    expected = wrapped(x).detach()
    wrapped.save_pretrained(tmp_path)
    model = load_lokr_model(wrapped.unload(), tmp_path)
    assert near(model(x), expected, 1e-5)
    assert model.get_nb_trainable_parameters()[0] == wrapped.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize(
    "options",
    [
        {"linear_dim": 2, "linear_alpha": 1.0, "factor": 4},
        {"linear_dim": 2, "linear_alpha": 8.0, "factor": -1, "decompose_both": True},
        {"linear_dim": 2, "linear_alpha": 1.0, "use_tucker": True},
        {"linear_dim": 100000, "linear_alpha": 1.0, "factor": 4},
        {"linear_dim": 2, "linear_alpha": 2.0, "dora_wd": True},
        {"linear_dim": 2, "linear_alpha": 2.0, "dora_wd": True, "wd_on_output": False},
        {"linear_dim": 1, "linear_alpha": 3.0, "unbalanced_factorization": True},
    ],
)
def test_what_lycoris_trained_goes_on_training(tmp_path, options):
    lycoris = pytest.importorskip("lycoris", reason="LyCORIS is the expected value of this test")
    base, x = Layers(), torch.randn(2, 24)
    lycoris.LycorisNetwork.apply_preset({"target_module": ["Linear", "Conv1d", "Conv2d"]})
    network = lycoris.create_lycoris(base, 1.0, algo="lokr", **options)
    network.apply_to()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.mul_(1 + 0.3 * torch.rand_like(parameter)) if "dora" in name else parameter.normal_(std=0.3)
    network.eval()
    expected = base(x).detach()
    network.restore()
    network.save_weights(str(tmp_path / "a.safetensors"), None, {})
    model = load_lokr_model(base, tmp_path / "a.safetensors")
    assert near(model(x), expected, 1e-5)
    model(x).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_form_that_peft_has_not_is_not_saved_as_if_it_had(tmp_path):
    base = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 1024))
    lokr = LoKrWeights(Factor(torch.randn(2, 2)), Factor(torch.randn(16, 16)))
    other = LoKrWeights(Factor(torch.randn(16, 2)), Factor(torch.randn(64, 16)))
    model = load_lokr_model(base, Adapter({"0": lokr, "1": other}))
    with pytest.raises(LoKrValueError, match="cannot hold the factors") as error:
        model.save_pretrained(tmp_path)
    assert "kohya" in str(error.value) and not list(tmp_path.iterdir())


def test_peft_reads_what_went_on_training_from_a_kohya_file(tmp_path):
    peft = pytest.importorskip("peft", reason="PEFT is the expected value of this test")
    base, x = Layers(), torch.randn(2, 24)
    save_adapter(adapter_for(base, LOW), tmp_path / "k.safetensors", format="kohya")
    model = load_lokr_model(base, tmp_path / "k.safetensors", rank_dropout=0.1).eval()
    expected = model(x).detach()
    model.save_pretrained(tmp_path / "peft")
    again = peft.PeftModel.from_pretrained(model.unload(), tmp_path / "peft")
    assert near(again(x).detach(), expected, 1e-5)


def test_whole_modules_are_no_part_of_an_adapters_file(tmp_path):
    model = get_lokr_model(Layers(), LoKrConfig(target_modules=["linear"], modules_to_save=["pointwise"], r=2))
    with pytest.raises(LoKrValueError, match="Whole modules or biases") as error:
        save_adapter(model, tmp_path / "a.safetensors", format="kohya")
    assert "save_pretrained" in str(error.value)


def test_more_than_lokr_in_a_file_is_refused(tmp_path):
    lora = {"x.lora_up.weight": torch.ones(4, 1), "x.lora_down.weight": torch.ones(1, 4)}
    adapter = adapter_for(nn.Sequential(nn.Linear(24, 40)), BOTH)
    adapter.other.update(lora)
    save_adapter(adapter, tmp_path / "a.safetensors")
    with pytest.raises(LoKrValueError, match="more than LoKr"):
        load_lokr_model(nn.Sequential(nn.Linear(24, 40)), tmp_path / "a.safetensors")
