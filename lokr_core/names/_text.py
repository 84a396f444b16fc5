"""Text encoders: CLIP (transformers' and OpenCLIP's), T5 and UMT5, BERT, and decoders of Llama's kind.

Hosts change only the prefix of transformers' names, so most of these tables are prefixes.
"""

from __future__ import annotations

from ._words import Architecture, PrefixGroup, Side, block, fused, one_naming, pairs

_LAYER, _BLOCK = "text_model.encoder.layers.{i}", "transformer.resblocks.{i}"

# OpenCLIP's text_projection, a bare parameter, is the transpose of transformers' Linear: not covered.
CLIP = Architecture(
    "clip",
    "CLIP text encoder",
    # OpenCLIP (SD2 and SDXL in A1111): query, key and value are one bare parameter of the attention.
    Side(
        has=("transformer.resblocks.0.attn", "transformer.resblocks.0.mlp.c_fc"),
        prefixes=(PrefixGroup("transformer.resblocks.0.mlp.c_fc", ("", "model.")),),
    ),
    # transformers 5 has no `text_model.` in CLIPTextModel, but has it in CLIPTextModelWithProjection.
    Side(
        has=("text_model.encoder.layers.0.self_attn.q_proj", "text_model.encoder.layers.0.mlp.fc1"),
        prefixes=(PrefixGroup("encoder.layers.0.mlp.fc1", ("text_model.", "", "transformer.text_model.")),),
    ),
    (
        fused(f"{_BLOCK}.attn", f"{_LAYER}.self_attn.", "q_proj k_proj v_proj"),
        *block(
            _LAYER,
            _BLOCK,
            "self_attn.out_proj=attn.out_proj mlp.fc1=mlp.c_fc mlp.fc2=mlp.c_proj",
            "layer_norm1=ln_1 layer_norm2=ln_2",
        ),
        *pairs("text_model.final_layer_norm=ln_final text_model.embeddings.token_embedding=token_embedding"),
    ),
)

_T5 = PrefixGroup("block.0.layer.0.SelfAttention.q", ("encoder.", "", "transformer.encoder."))
_BERT = PrefixGroup("encoder.layer.0.attention.self.query", ("bert.", "", "transformer.bert."))
_DECODERS = ("model.", "", "model.language_model.", "language_model.model.", "language_model.", "transformer.model.")
_LANGUAGE = PrefixGroup("layers.0.self_attn.q_proj", _DECODERS)
_LINEAR = PrefixGroup("layers.0.linear_attn.in_proj_qkv", _DECODERS)  # Qwen3.5: in three of four layers
_VISION = PrefixGroup("blocks.0.attn.qkv", ("visual.", "model.visual.", "transformer.visual."))


def _decoder(name: str, title: str, *has: str, layers: PrefixGroup = _LANGUAGE) -> Architecture:
    return one_naming(name, title, *has, prefixes=(layers, _VISION))


_FEED_FORWARD = "model.layers.0.mlp.down_proj"

TABLES = (
    CLIP,
    one_naming("t5", "T5 and UMT5", prefixes=(_T5,)),
    one_naming("bert", "BERT", prefixes=(_BERT,)),
    _decoder("qwen_vl", "Qwen-VL", _FEED_FORWARD, "visual.blocks.0.attn.qkv"),
    _decoder("qwen35", "Qwen3.5", _FEED_FORWARD, layers=_LINEAR),
    _decoder("gemma", "Gemma 2 and 3", _FEED_FORWARD, "model.layers.0.pre_feedforward_layernorm"),
    _decoder("qwen3", "Qwen3", _FEED_FORWARD, "model.layers.0.self_attn.q_norm"),
    _decoder("gpt_oss", "GPT-OSS", "model.layers.0.mlp.router"),
    _decoder("llama", "Llama and its like (Mistral, Qwen2)", _FEED_FORWARD),
)
