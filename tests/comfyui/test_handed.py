"""A LoRA beside a LoKr, both in PEFT's names: ComfyUI's own loader gets it under the names that our tables find."""

from __future__ import annotations

import json

import torch
from safetensors.torch import save_file


def test_a_peft_named_lora_beside_a_lokr_reaches_its_rows_through_our_names(comfyui, tmp_path):
    block = "base_model.model.transformer_blocks.0."
    tensors = {
        f"{block}attn.to_q.lokr_w1": torch.randn(8, 8),
        f"{block}attn.to_q.lokr_w2": torch.randn(32, 32),
        f"{block}attn.to_k.lora_A.default.weight": torch.randn(4, 256),
        f"{block}attn.to_k.lora_B.default.weight": torch.randn(256, 4),
        f"{block}ff.net.2.lora_A.weight": torch.randn(4, 1024),
        f"{block}ff.net.2.lora_B.weight": torch.randn(256, 4),
    }
    for folder in ("loras", "diffusion_models"):
        (tmp_path / "models" / folder).mkdir(parents=True)
    save_file(tensors, str(tmp_path / "models/loras/mixed.safetensors"))
    model, out = str(tmp_path / "models/diffusion_models/flux-float32.safetensors"), tmp_path / "out.json"
    comfyui.run(
        tmp_path,
        {"do": "make_flux", "path": model, "dtype": "float32"},
        {"do": "handed", "model": model, "lokr": "mixed.safetensors", "out": str(out)},
    )
    found = json.loads(out.read_text())
    assert found["report"].startswith("3 of 3 modules applied")
    assert found["patches"] == {
        "diffusion_model.double_blocks.0.img_attn.qkv.weight": [
            ["LoKrPatch", [0, 0, 256]],
            ["LoRAAdapter", [0, 256, 256]],
        ],
        "diffusion_model.double_blocks.0.img_mlp.2.weight": [["LoRAAdapter", None]],
    }
