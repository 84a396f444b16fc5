"""Tiny text encoders of every kind, in transformers and in ComfyUI, as `tiny_models` has the denoisers.

A row of `TINY_TEXT` is (transformers class, arguments of its config), (ComfyUI's class below `comfy`, its config).
"""

from __future__ import annotations

from collections.abc import Callable
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

_PIXTRAL = dict(
    vision_config=dict(
        model_type="pixtral", hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    )
)
_LINEAR = dict(
    layer_types=["linear_attention", "full_attention"],
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    linear_key_head_dim=8,
    linear_value_head_dim=12,
)
_EXPERTS = _DECODER | dict(head_dim=16, num_local_experts=3)
_BERT = dict(
    vocab_size=99,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=77,
    type_vocab_size=2,
    pad_token_id=0,
    layer_norm_eps=1e-12,
)


def _gpt_oss(config: dict[str, Any], dtype: Any, device: str, operations: Any) -> Any:
    """ComfyUI's GPT-OSS, which takes other arguments than its other text encoders, and experts as layers."""
    from comfy.ops import mixed_precision_ops
    from comfy.text_encoders.gpt_oss import GptOss20BConfig, GptOssModel

    class Layers(operations):
        MoEExperts = mixed_precision_ops({}, dtype).MoEExperts

    return GptOssModel(GptOss20BConfig(**config), device=device, dtype=dtype, ops=Layers)


TINY_TEXT: dict[str, tuple[tuple[str, dict[str, Any]], tuple[str | Callable[..., Any], dict[str, Any]]]] = {
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
    "mistral3": (  # of Flux.2
        ("Mistral3ForConditionalGeneration", dict(text_config=_HEADS | dict(model_type="mistral"), **_PIXTRAL)),
        ("text_encoders.llama:Mistral3Small24B", _DECODER),
    ),
    "ministral3": (  # of ERNIE-Image
        ("Mistral3Model", dict(text_config=_HEADS | dict(model_type="ministral3"), **_PIXTRAL)),
        ("text_encoders.llama:Ministral3_3B", _DECODER),
    ),
    "qwen3_vl": (  # of Krea 2, Ideogram 4, JoyImage and Boogu-Image
        (
            "Qwen3VLForConditionalGeneration",
            dict(
                text_config=_HEADS,
                vision_config=dict(
                    hidden_size=1152,
                    intermediate_size=4304,
                    depth=27,
                    out_hidden_size=32,
                    deepstack_visual_indexes=[8, 16, 24],
                ),
            ),
        ),
        ("text_encoders.qwen3vl:Qwen3VL", _DECODER),
    ),
    "qwen35": (
        (
            "Qwen3_5ForConditionalGeneration",
            dict(
                text_config=_GEMMA | _LINEAR,
                vision_config=dict(hidden_size=1024, intermediate_size=4096, depth=24, out_hidden_size=32),
            ),
        ),
        ("text_encoders.qwen35:Qwen35", _DECODER | _LINEAR),
    ),
    "gpt_oss": (  # of Lens
        ("GptOssForCausalLM", _EXPERTS),
        (_gpt_oss, _EXPERTS),
    ),
    "bert": (("BertModel", _BERT), ("text_encoders.bert:BertModel", _BERT)),  # of HunyuanDiT
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

    cls, config = TINY_TEXT[arch][1]
    if isinstance(cls, str):
        module, name = cls.split(":")
        cls = getattr(import_module(f"comfy.{module}"), name)
    return cls(dict(config), dtype=torch.float32, device="meta", operations=comfy.ops.disable_weight_init)
