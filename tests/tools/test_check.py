"""``--check``: a converted file loaded by the program that it is for, and what is told where that is not possible."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from lokr_core import LoKrMatchError, LoKrValueError
from lokr_core.cli import main
from lokr_core.tools import check_with

H = 128  # ComfyUI takes Flux' heads as 128 wide


def flux_weights() -> dict[str, tuple[int, ...]]:
    """The weights of a Flux of one block of either kind and one head."""
    found = {"img_in": (H, 16), "txt_in": (H, 40), "final_layer.linear": (16, H),
             "final_layer.adaLN_modulation.1": (2 * H, H), "single_blocks.0.linear1": (7 * H, H),
             "single_blocks.0.linear2": (H, 5 * H), "single_blocks.0.modulation.lin": (3 * H, H)}  # fmt: skip
    for name, columns in (("time_in", 256), ("vector_in", 24), ("guidance_in", 256)):
        found |= {f"{name}.in_layer": (H, columns), f"{name}.out_layer": (H, H)}
    for stream in ("double_blocks.0.img", "double_blocks.0.txt"):
        found |= {f"{stream}_mod.lin": (6 * H, H), f"{stream}_attn.qkv": (3 * H, H), f"{stream}_attn.proj": (H, H)}
        found |= {f"{stream}_mlp.0": (4 * H, H), f"{stream}_mlp.2": (H, 4 * H)}
    weights = {f"{name}.weight": shape for name, shape in found.items()}
    norms = [f"double_blocks.0.{x}_attn.norm.{y}_norm.scale" for x in ("img", "txt") for y in ("query", "key")]
    return weights | dict.fromkeys(norms, (H,))


@pytest.fixture
def flux(tmp_path):
    """(a model file as ComfyUI names it, an adapter of all its blocks' layers, how many they are)."""
    weights = flux_weights()
    save_file({name: torch.zeros(shape) for name, shape in weights.items()}, tmp_path / "model.safetensors")
    layers = [n.removesuffix(".weight") for n, s in weights.items() if "blocks" in n and len(s) == 2]
    tensors = {}
    for name in layers:
        out, columns = weights[f"{name}.weight"]
        tensors |= {f"diffusion_model.{name}.lokr_w1": torch.ones(2, 2),
                    f"diffusion_model.{name}.lokr_w2": torch.ones(out // 2, columns // 2)}  # fmt: skip
    save_file(tensors, tmp_path / "style.safetensors")
    return tmp_path / "model.safetensors", tmp_path / "style.safetensors", len(layers)


def test_comfyuis_own_loader_counts_what_it_takes(flux, comfyui, monkeypatch, capsys):
    model, style, layers = flux
    monkeypatch.setenv("COMFYUI_PATH", str(comfyui.path))
    monkeypatch.setenv("COMFYUI_PYTHON", str(comfyui.python))
    assert check_with("comfyui", style, model, layers) == f"ComfyUI loads it: {layers} of {layers} modules"
    with pytest.raises(LoKrMatchError, match="takes not all"):
        check_with("comfyui", style, model, layers + 1)
    out = style.with_name("out.safetensors")
    arguments = ["--to", "lora", "--names", "comfyui", "--lossy", "--rank", "4", "--model", str(model)]
    assert main(["convert", str(style), "-o", str(out), *arguments, "--check", "comfyui"]) == 0
    assert f"ComfyUI loads it: {layers} of {layers} modules" in capsys.readouterr().out


def test_what_a_check_with_comfyui_needs_is_told(flux, monkeypatch, tmp_path):
    model, style, layers = flux
    with pytest.raises(LoKrValueError, match="the model as ComfyUI reads it"):
        check_with("comfyui", style, None, layers)
    with pytest.raises(LoKrValueError, match="the model as ComfyUI reads it"):
        check_with("comfyui", style, tmp_path, layers)
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(LoKrValueError, match="ComfyUI is not installed"):
        check_with("comfyui", style, model, layers)


def test_a_comfyui_that_fails_says_why(flux, monkeypatch, tmp_path):
    model, style, layers = flux
    folder = tmp_path / "ComfyUI"
    (folder / "comfy").mkdir(parents=True)
    (folder / "comfy" / "lora.py").touch()
    monkeypatch.setenv("COMFYUI_PATH", str(folder))
    monkeypatch.delenv("COMFYUI_PYTHON", raising=False)
    with pytest.raises(LoKrMatchError, match="No module named 'comfy.options'"):
        check_with("comfyui", style, model, layers)
