"""``lokr train`` on a model whose weights are stored in 8 bits, or quantised by a library."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lokr_core.cli import main

SMALL = ("--size", "32", "--rank", "2", "--factor", "4", "--steps", "3", "--learning-rate", "0.02")


@pytest.fixture
def copied(folder_of, tmp_path):
    """name -> a copy of Flux' tiny folder."""

    def made(name: str) -> Path:
        return Path(shutil.copytree(folder_of("flux"), tmp_path / name))

    return made


def trained(model: Path, pictures: Path) -> list[float]:
    """The losses of three steps."""
    out = model.with_name(f"{model.name}-trained")
    assert main([str(each) for each in ("train", model, pictures, "-o", out, *SMALL)]) == 0
    assert (out / "lokr.safetensors").exists()
    return json.loads((out / "losses.json").read_text())


def test_weights_in_fp8_are_trained_on_as_their_numbers_in_the_precision(copied, pictures):
    losses = {}
    for name in ("fp8", "fp32"):
        folder = copied(name)
        (file,) = (folder / "transformer").glob("*.safetensors")
        rounded = {key: t.to(torch.float8_e4m3fn) if t.ndim == 2 else t for key, t in load_file(file).items()}
        whole = {key: t.float() for key, t in rounded.items()}
        save_file(rounded if name == "fp8" else whole, file, {"format": "pt"})
        losses[name] = trained(folder, pictures)
    assert losses["fp8"] == pytest.approx(losses["fp32"], rel=1e-5)


def test_a_quantised_model_that_cannot_be_loaded_here_is_refused_with_the_reason(copied, pictures, capsys):
    if torch.cuda.is_available():
        pytest.skip("bitsandbytes quantises on this machine")
    folder = copied("bnb")
    config = folder / "transformer" / "config.json"
    quantised = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    config.write_text(json.dumps({**json.loads(config.read_text()), **quantised}))
    assert main([str(each) for each in ("train", folder, pictures, "-o", folder.with_name("out"), *SMALL)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "transformer cannot be loaded" in said and "quantised model" in said


def test_a_model_quantised_by_torchao_is_trained(copied, pictures):
    pytest.importorskip("torchao", reason="NO TORCHAO HERE: pip install torchao")
    from diffusers import FluxTransformer2DModel, TorchAoConfig
    from torchao.quantization import Int8WeightOnlyConfig

    plain, folder = copied("plain"), copied("torchao")
    how = dict(quantization_config=TorchAoConfig(Int8WeightOnlyConfig()), torch_dtype=torch.bfloat16)
    model = FluxTransformer2DModel.from_pretrained(folder / "transformer", **how)
    shutil.rmtree(folder / "transformer")
    model.save_pretrained(folder / "transformer", safe_serialization=False)
    assert trained(folder, pictures) == pytest.approx(trained(plain, pictures), rel=0.02)
