"""Tiny text encoders of every kind, in transformers and in ComfyUI, as `tiny_models` has the denoisers.

A row of `TINY_TEXT` is (transformers class, arguments of its config), (ComfyUI's class below `comfy`, its config).
"""

# ruff: noqa: C408  arguments are written as in the call they are for

from __future__ import annotations

from importlib import import_module
from typing import Any

_CLIP = dict(
    vocab_size=99,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    projection_dim=32,
    max_position_embeddings=77,
    eos_token_id=2,
    hidden_act="gelu",
)
_T5 = dict(
    vocab_size=99,
    d_model=32,
    d_kv=8,
    d_ff=48,
    num_layers=2,
    num_heads=5,
    is_gated_act=True,
    feed_forward_proj="gated-gelu",
)
_DECODER = dict(
    vocab_size=99,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
_HEADS, _GEMMA = _DECODER | dict(head_dim=128), _DECODER | dict(head_dim=256)  # fixed in ComfyUI
_QWEN25 = _DECODER | dict(hidden_size=256, num_attention_heads=2, num_key_value_heads=1)  # heads of 128 here too
_VISION = dict(depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, out_hidden_size=256)

TINY_TEXT: dict[str, tuple[tuple[str, dict[str, Any]], tuple[str, dict[str, Any]]]] = {
    "clip": (("CLIPTextModelWithProjection", _CLIP), ("clip_model:CLIPTextModel", _CLIP)),
    "clip_bare": (("CLIPTextModel", _CLIP), ("clip_model:CLIPTextModel", _CLIP)),
    "t5": (
        ("T5EncoderModel", _T5),
        ("text_encoders.t5:T5", _T5 | dict(model_type="t5", dense_act_fn="gelu_pytorch_tanh")),
    ),
    "umt5": (
        ("UMT5EncoderModel", _T5),
        ("text_encoders.t5:T5", _T5 | dict(model_type="umt5", dense_act_fn="gelu_pytorch_tanh")),
    ),
    "llama": (("LlamaForCausalLM", _HEADS), ("text_encoders.llama:Llama2", _DECODER)),
    "qwen3": (("Qwen3ForCausalLM", _HEADS), ("text_encoders.llama:Qwen3_4B", _DECODER)),
    "qwen3_bare": (("Qwen3Model", _HEADS), ("text_encoders.llama:Qwen3_4B", _DECODER)),
    "gemma2": (("Gemma2Model", _GEMMA), ("text_encoders.llama:Gemma2_2B", _DECODER)),
    "gemma3": (
        (
            "Gemma3ForConditionalGeneration",
            dict(
                text_config=_GEMMA,
                vision_config=dict(
                    hidden_size=16,
                    intermediate_size=24,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    image_size=28,
                    patch_size=14,
                ),
            ),
        ),
        ("text_encoders.llama:Gemma3_4B", _DECODER),
    ),
    "qwen25_vl": (
        (
            "Qwen2_5_VLForConditionalGeneration",
            dict(
                text_config=_QWEN25 | dict(rope_scaling=dict(type="default", mrope_section=[16, 24, 24])),
                vision_config=_VISION,
            ),
        ),
        ("text_encoders.llama:Qwen25_7BVLI", _QWEN25),
    ),
}


def build_transformers(arch: str) -> Any:
    """The transformers model of a row, on the meta device."""
    import torch
    import transformers

    name, config = TINY_TEXT[arch][0]
    cls = getattr(transformers, name)
    with torch.device("meta"):
        return cls(cls.config_class(**config))


def build_comfyui_text(arch: str) -> Any:
    """ComfyUI's model of a row, on the meta device; needs ComfyUI's folder in `sys.path`."""
    import comfy.ops
    import torch

    path, config = TINY_TEXT[arch][1]
    module, name = path.split(":")
    return getattr(import_module(f"comfy.{module}"), name)(
        dict(config), dtype=torch.float32, device="meta", operations=comfy.ops.disable_weight_init
    )
