"""The examples, as a user runs them: what they write, and that it is what PEFT would train."""

from __future__ import annotations

import importlib.util
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from lokr_core import load_adapter

PROJECT = Path(__file__).resolve().parents[2]
diffusers = pytest.importorskip("diffusers", reason="NO DIFFUSERS HERE: it makes the models that are trained")


@pytest.fixture
def run(monkeypatch, capsys) -> Callable[..., str]:
    """Runs an example as the interpreter does, but in this process, which has imported torch; what it prints."""

    def run(name: str, out: Path, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, "--out", str(out), "--save-every", "2", *arguments])
        capsys.readouterr()
        runpy.run_path(str(PROJECT / "examples" / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def example(name: str):
    spec = importlib.util.spec_from_file_location(name, PROJECT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        Image.effect_noise((70, 50 + 20 * number), 60).convert("RGB").save(folder / f"{number}.png")
    return folder


def test_dreambooth_goes_on_and_has_pefts_number_of_parameters(run, tmp_path, pictures):
    peft = pytest.importorskip("peft", reason="PEFT's number of parameters is the expected value")
    first = run("train_dreambooth.py", tmp_path / "run", str(pictures), "--steps", "2")
    second = run("train_dreambooth.py", tmp_path / "run", str(pictures), "--steps", "4")
    assert "for 2 steps" in first and "for 4 steps" in second
    assert len(json.loads((tmp_path / "run" / "losses.json").read_text())) == 4
    adapter = load_adapter(tmp_path / "run" / "lokr.safetensors")
    module = example("train_dreambooth")
    theirs = peft.get_peft_model(
        module.tiny_unet(), peft.LoKrConfig(r=8, alpha=16, decompose_factor=-1, target_modules=module.TARGETS)
    )
    count = sum(weights.numel for weights in adapter.values())
    assert count == theirs.get_nb_trainable_parameters()[0]
    assert f"{count:,} parameters trained" in second
    assert all(name.startswith("lora_unet_") for name in adapter)


def test_decompose_both_is_pefts(run, tmp_path):
    peft = pytest.importorskip("peft", reason="PEFT's factors are the expected value")
    run("train_decompose_both.py", tmp_path, "--steps", "2")
    module = example("train_decompose_both")
    config = dict(r=4, alpha=4, decompose_both=True, decompose_factor=8, target_modules=module.FLUX_TARGETS)
    theirs = peft.get_peft_model(module.small_flux(), peft.LoKrConfig(**config))
    found = sorted(t.shape for w in load_adapter(tmp_path / "lokr.safetensors").values() for t in tensors(w))
    assert found == sorted(p.shape for p in theirs.parameters() if p.requires_grad)


def tensors(weights) -> list[torch.Tensor]:
    return [*weights.w1.tensors.values(), *weights.w2.tensors.values()]


def test_a_vit_is_read_by_peft(run, tmp_path):
    peft = pytest.importorskip("peft", reason="PEFT's reading is the expected value of this test")
    pytest.importorskip("transformers", reason="NO TRANSFORMERS HERE")
    said = run("train_vit.py", tmp_path, "--steps", "3")
    module = example("train_vit")
    torch.manual_seed(0)
    theirs = peft.PeftModel.from_pretrained(module.tiny_vit(), tmp_path, is_trainable=True)
    assert f"{theirs.get_nb_trainable_parameters()[0]:,} parameters trained" in said
    assert theirs.peft_config["default"].rank_dropout == 0.1
    unseen, expected = module.patterns(96, torch.Generator().manual_seed(1))
    with torch.no_grad():
        right = (theirs.eval()(unseen).logits.argmax(1) == expected).float().mean()
    assert f"{right:.0%} of 96 pictures" in said
