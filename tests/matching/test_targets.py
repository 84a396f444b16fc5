"""Adapters find their weights in original checkpoints, which hold a denoiser and text encoders below prefixes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lokr_core import Adapter, Factor, LoKrWeights, save_adapter
from lokr_core.tools import check_file

ARCHITECTURES = Path(__file__).parent.parent / "names" / "data"


def kohya(parts: dict[str, list[int]], prefix: str) -> Adapter:
    """A LoKr for every module of the diffusers model ``parts``, named as kohya names them."""
    modules = {}
    for name, (out, columns, *kernel) in parts.items():
        weights = LoKrWeights(Factor(torch.ones(1, 1)), Factor(torch.ones(out, columns, *kernel)))
        modules[prefix + name.replace(".", "_")] = weights
    return Adapter(modules)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_kohya_names_find_their_weights_in_an_original_checkpoint(tmp_path, name):
    data = json.loads((ARCHITECTURES / f"{name}.json").read_text())
    tensors = {f"model.diffusion_model.{key}": torch.zeros(shape) for key, shape in data["comfyui"].items()}
    save_file(tensors, tmp_path / "model.safetensors")
    weights = {key: shape for key, shape in data["diffusers"].items() if len(shape) > 1}
    save_adapter(kohya(weights, "lora_unet_"), tmp_path / "kohya.safetensors")
    report = check_file(tmp_path / "model.safetensors", tmp_path / "kohya.safetensors")
    assert report.complete, report.text()
    assert len({entry.where for entry in report.entries}) == len(weights)


def test_each_text_encoder_of_a_checkpoint_has_its_own_names(tmp_path):
    layer, size = "text_model.encoder.layers.0", [8, 8]
    modules = {f"{layer}.self_attn.q_proj": size, f"{layer}.mlp.fc1": size, f"{layer}.mlp.fc2": size}
    first = "conditioner.embedders.0.transformer"
    clip_l = {f"{first}.{name}.weight": torch.zeros(shape) for name, shape in modules.items()}
    open_clip = "conditioner.embedders.1.model.transformer.resblocks.0"
    clip_g = {
        f"{open_clip}.attn.in_proj_weight": torch.zeros(24, 8),
        f"{open_clip}.mlp.c_fc.weight": torch.zeros(8, 8),
        f"{open_clip}.mlp.c_proj.weight": torch.zeros(8, 8),
    }
    save_file({**clip_l, **clip_g}, tmp_path / "model.safetensors")
    both = {**kohya(modules, "lora_te1_").modules, **kohya(modules, "lora_te2_").modules}
    save_adapter(Adapter(both), tmp_path / "te.safetensors")
    report = check_file(tmp_path / "model.safetensors", tmp_path / "te.safetensors")
    where = {entry.module: entry.where for entry in report.entries}
    assert report.complete, report.text()
    assert where["lora_te1_text_model_encoder_layers_0_mlp_fc2"].startswith("conditioner.embedders.0.")
    assert where["lora_te2_text_model_encoder_layers_0_mlp_fc2"] == f"{open_clip}.mlp.c_proj.weight"
    assert where["lora_te2_text_model_encoder_layers_0_self_attn_q_proj"] == f"{open_clip}.attn.in_proj_weight"
