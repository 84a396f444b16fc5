"""What a file holds beside LoKr: the core applies it where it is an update of the same form, merged and live, and
ComfyUI's own loader gets the rest under the names that our tables find."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

BLOCK = "base_model.model.transformer_blocks.0."
QKV = "diffusion_model.double_blocks.0.img_attn.qkv.weight"
MLP = "diffusion_model.double_blocks.0.img_mlp.2"
LOHA = "diffusion_model.double_blocks.0.txt_mlp.2.weight"


@pytest.fixture(scope="module")
def found(comfyui, tmp_path_factory):
    base = tmp_path_factory.mktemp("mixed")
    torch.manual_seed(0)
    lokr = {f"{BLOCK}attn.to_q.lokr_w1": torch.randn(8, 8), f"{BLOCK}attn.to_q.lokr_w2": torch.randn(32, 32) * 0.1}
    k, mlp = ((torch.randn(4, columns), torch.randn(256, 4) * 0.3) for columns in (256, 1024))
    bias = torch.randn(256)
    loha = {
        f"hada_w{i}_{side}": torch.randn(shape) for i in (1, 2) for side, shape in (("a", (256, 2)), ("b", (2, 1024)))
    }
    theirs = {
        "diffusion_model.double_blocks.0.img_mlp.2.lora_down.weight": mlp[0],
        "diffusion_model.double_blocks.0.img_mlp.2.lora_up.weight": mlp[1],
        "diffusion_model.double_blocks.0.img_mlp.2.diff_b": bias,
        "transformer.transformer_blocks.0.attn.to_k.lora_A.weight": k[0],
        "transformer.transformer_blocks.0.attn.to_k.lora_B.weight": k[1],
        **{f"diffusion_model.double_blocks.0.txt_mlp.2.{name}": tensor for name, tensor in loha.items()},
    }
    mixed = {
        **lokr,
        f"{BLOCK}attn.to_k.lora_A.default.weight": k[0],
        f"{BLOCK}attn.to_k.lora_B.default.weight": k[1],
        f"{BLOCK}ff.net.2.lora_A.weight": mlp[0],
        f"{BLOCK}ff.net.2.lora_B.weight": mlp[1],
        f"{BLOCK}ff.net.2.diff_b": bias,
        **{f"{BLOCK}ff_context.net.2.{name}": tensor for name, tensor in loha.items()},
    }
    for folder in ("loras", "diffusion_models"):
        (base / "models" / folder).mkdir(parents=True)
    for name, tensors in (("mixed", mixed), ("lokr", lokr), ("rest", theirs)):
        save_file({key: t.contiguous() for key, t in tensors.items()}, str(base / f"models/loras/{name}.safetensors"))
    model, out = str(base / "models/diffusion_models/flux-float32.safetensors"), base / "out.json"
    parts = ["lokr.safetensors", "rest.safetensors"]
    comfyui.run(
        base,
        {"do": "make_flux", "path": model, "dtype": "float32"},
        {"do": "mixed", "model": model, "lokr": "mixed.safetensors", "parts": parts, "out": str(out)},
    )
    return json.loads(out.read_text())


@pytest.mark.parametrize("mode", ["merge", "live"])
def test_a_file_of_several_kinds_does_what_its_parts_do_each_by_its_own_loader(found, mode):
    assert found["effect"] > 1e-2
    assert found[mode]["distance"] < 1e-5
    assert found[mode]["report"].startswith("4 of 4 modules applied")


def test_live_patches_no_weight_but_for_what_only_comfyui_can_read(found):
    assert found["live"]["patches"] == {LOHA: [["LoHaAdapter", None]]}
    assert found["merge"]["patches"] == {
        QKV: [["LoKrPatch", [0, 0, 256]], ["LoKrPatch", [0, 256, 256]]],
        f"{MLP}.weight": [["LoKrPatch", None]],
        f"{MLP}.bias": [["LoKrPatch", None]],
        LOHA: [["LoHaAdapter", None]],
    }
