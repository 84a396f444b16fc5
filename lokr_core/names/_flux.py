"""Flux.1 (dev, schnell, Kontext, Fill), Flux.2 (dev, Klein), Chroma, LongCat-Image, Ovis-Image; and, built of the same
blocks, HunyuanVideo, HunyuanVideo 1.5 and HunyuanImage 2.1.
"""

from __future__ import annotations

from ._words import (
    Architecture,
    Rule,
    Side,
    block,
    feed_forward,
    fused,
    joint_attention,
    one,
    pairs,
    split,
    two_layers,
    words,
)

_DOUBLE, _SINGLE = "double_blocks.{i}", "single_blocks.{i}"
_TWO, _ONE = "transformer_blocks.{i}", "single_transformer_blocks.{i}"

_ATTENTION: tuple[Rule, ...] = (
    *joint_attention(f"{_TWO}.attn", f"{_DOUBLE}.img_attn", f"{_DOUBLE}.txt_attn", "norm.query_norm norm.key_norm"),
    *block(_ONE, _SINGLE, "attn.norm_q=norm.query_norm attn.norm_k=norm.key_norm"),
    *pairs("x_embedder=img_in context_embedder=txt_in proj_out=final_layer.linear"),
)

_FEED_FORWARD = (
    *feed_forward(f"{_TWO}.ff", f"{_DOUBLE}.img_mlp"),
    *feed_forward(f"{_TWO}.ff_context", f"{_DOUBLE}.txt_mlp"),
)

_SINGLE_BLOCKS: tuple[Rule, ...] = (
    fused(f"{_SINGLE}.linear1", f"{_ONE}.", "attn.to_q attn.to_k attn.to_v proj_mlp", "in in in rest"),
    one(f"{_ONE}.proj_out", f"{_SINGLE}.linear2"),
)

_MODULATION = (
    *block(_TWO, _DOUBLE, "norm1.linear=img_mod.lin norm1_context.linear=txt_mod.lin"),
    one(f"{_ONE}.norm.linear", f"{_SINGLE}.modulation.lin"),
    one("norm_out.linear", "final_layer.adaLN_modulation.1", swap=True),
)

_DOUBLE_BLOCKS = (*_ATTENTION, *_FEED_FORWARD)


# OneTrainer's OMI files have `.proj` below the input embedding.
_OMI = (words("img_in=img_in.proj"),)


def _embedders(prefix: str, *rows: str) -> tuple[Rule, ...]:
    """Rules for embedders of two Linears, from `words` `diffusers=original`; diffusers' are below `prefix`."""
    return tuple(
        rule for theirs, ours in words(*rows) for rule in two_layers(f"{prefix}.{theirs}", ours, "in_layer out_layer")
    )


_TIME_TEXT = _embedders(
    "time_text_embed", "timestep_embedder=time_in text_embedder=vector_in guidance_embedder=guidance_in"
)


_BLOCKS = ("double_blocks.0.img_attn.qkv", "single_blocks.0.linear1", "double_blocks.0.img_mod.lin", "img_in")
_THEIR_BLOCKS = (
    "transformer_blocks.0.attn.add_q_proj",
    "single_transformer_blocks.0.proj_mlp",
    "x_embedder",
    "transformer_blocks.0.norm1.linear",
)

_OVIS = ("double_blocks.0.img_mlp.gate_proj",)

FLUX = Architecture(
    "flux",
    "Flux.1",
    Side(has=(*_BLOCKS, "vector_in.in_layer"), lacks=_OVIS, spellings=_OMI),
    Side(has=(*_THEIR_BLOCKS, "time_text_embed.text_embedder.linear_1")),
    (*_DOUBLE_BLOCKS, *_SINGLE_BLOCKS, *_MODULATION, *_TIME_TEXT),
)

LONGCAT_IMAGE = Architecture(
    "longcat_image",
    "LongCat-Image",
    Side(has=_BLOCKS, lacks=("vector_in.in_layer", *_OVIS)),
    Side(has=(*_THEIR_BLOCKS, "time_embed.timestep_embedder.linear_1")),
    (*_DOUBLE_BLOCKS, *_SINGLE_BLOCKS, *_MODULATION, *_embedders("time_embed", "timestep_embedder=time_in")),
)

OVIS_IMAGE = Architecture(
    "ovis_image",
    "Ovis-Image",
    Side(has=(*_BLOCKS, *_OVIS)),
    Side(has=(*_THEIR_BLOCKS, "timestep_embedder.linear_1")),
    (
        *_ATTENTION,
        *_SINGLE_BLOCKS,
        *_MODULATION,
        # Gated feed-forwards: diffusers has one weight, whose upper rows are the values and whose lower the gate.
        split(f"{_TWO}.ff.net.0.proj", f"{_DOUBLE}.img_mlp.", "up_proj gate_proj"),
        split(f"{_TWO}.ff_context.net.0.proj", f"{_DOUBLE}.txt_mlp.", "up_proj gate_proj"),
        *block(_TWO, _DOUBLE, "ff.net.2=img_mlp.down_proj ff_context.net.2=txt_mlp.down_proj"),
        *two_layers("timestep_embedder", "time_in", "in_layer out_layer"),
        one("context_embedder_norm", "txt_norm"),
    ),
)

FLUX2 = Architecture(
    "flux2",
    "Flux.2",
    Side(has=("double_stream_modulation_img.lin", "double_blocks.0.img_attn.qkv")),
    Side(has=("double_stream_modulation_img.linear", "transformer_blocks.0.attn.to_q")),
    (
        *_ATTENTION,
        *block(f"{_TWO}.ff", f"{_DOUBLE}.img_mlp", "linear_in=0 linear_out=2"),
        *block(f"{_TWO}.ff_context", f"{_DOUBLE}.txt_mlp", "linear_in=0 linear_out=2"),
        *block(_ONE, _SINGLE, "attn.to_qkv_mlp_proj=linear1 attn.to_out=linear2"),
        *(
            one(f"{name}.linear", f"{name}.lin")
            for name in ("double_stream_modulation_img", "double_stream_modulation_txt", "single_stream_modulation")
        ),
        one("norm_out.linear", "final_layer.adaLN_modulation.1", swap=True),
        *_embedders("time_guidance_embed", "timestep_embedder=time_in guidance_embedder=guidance_in"),
    ),
)

CHROMA = Architecture(
    "chroma",
    "Chroma",
    Side(has=("distilled_guidance_layer.in_proj", "double_blocks.0.img_attn.qkv"), spellings=_OMI),
    Side(has=("distilled_guidance_layer.in_proj", "transformer_blocks.0.attn.to_q")),
    (
        *_DOUBLE_BLOCKS,
        *_SINGLE_BLOCKS,
        *two_layers("distilled_guidance_layer.layers.{i}", "distilled_guidance_layer.layers.{i}", "in_layer out_layer"),
    ),
)

# Hunyuan's models of 2024 and 2025 have Flux' blocks, and a refiner of the text tokens before them.
_REFINER = "context_embedder.token_refiner.refiner_blocks.{i}"
_TOKENS = "txt_in.individual_token_refiner.blocks.{i}"

_HUNYUAN: tuple[Rule, ...] = (
    *(rule for rule in (*_DOUBLE_BLOCKS, *_SINGLE_BLOCKS, *_MODULATION) if rule.original not in ("img_in", "txt_in")),
    *pairs("x_embedder.proj=img_in.proj context_embedder.proj_in=txt_in.input_embedder"),
    *_embedders(
        "context_embedder.time_text_embed", "timestep_embedder=txt_in.t_embedder text_embedder=txt_in.c_embedder"
    ),
    fused(f"{_TOKENS}.self_attn.qkv", f"{_REFINER}.attn.", "to_q to_k to_v"),
    *block(_REFINER, _TOKENS, "attn.to_out.0=self_attn.proj norm_out.linear=adaLN_modulation.1 norm1 norm2"),
    *feed_forward(f"{_REFINER}.ff", f"{_TOKENS}.mlp"),
)

_BYT5 = block("context_embedder_2", "byt5_in", "norm=layernorm linear_1=fc1 linear_2=fc2 linear_3=fc3")

_SPELLING = (  # what both spellings share
    "_mod.lin=_mod.linear modulation.lin=modulation.linear _attn.qkv=_attn_qkv _attn.proj=_attn_proj",
    "_attn.norm.query_norm=_attn_q_norm _attn.norm.key_norm=_attn_k_norm",
    ".norm.query_norm=.q_norm .norm.key_norm=.k_norm",
    "c_embedder.in_layer=c_embedder.linear_1 c_embedder.out_layer=c_embedder.linear_2",
    "time_in.in_layer=time_in.mlp.0 time_in.out_layer=time_in.mlp.2",
    "guidance_in.in_layer=guidance_in.mlp.0 guidance_in.out_layer=guidance_in.mlp.2",
)

# The feed-forwards' words stand first, or they would change the embedders' `mlp.0` and `mlp.2` too.
_HUNYUAN_SPELLINGS = (
    # The authors' own repository, kept by musubi-tuner; diffusion-pipe keeps it for the blocks.
    words(
        "mlp.0=mlp.fc1 mlp.2=mlp.fc2",
        *_SPELLING,
        "t_embedder.in_layer=t_embedder.mlp.0 t_embedder.out_layer=t_embedder.mlp.2",
    ),
    # OneTrainer's OMI files.
    words(
        "mlp.0=mlp.fc0 mlp.2=mlp.fc2",
        *_SPELLING,
        "t_embedder.in_layer=t_embedder.linear_1 t_embedder.out_layer=t_embedder.linear_2",
    ),
)

_HUNYUAN_ORIGINAL = (
    "txt_in.individual_token_refiner.blocks.0.self_attn.qkv",
    "double_blocks.0.img_attn.qkv",
    "img_in.proj",
)
_HUNYUAN_THEIRS = ("context_embedder.token_refiner.refiner_blocks.0.attn.to_q", "transformer_blocks.0.attn.add_q_proj")

HUNYUAN_VIDEO = Architecture(
    "hunyuan_video",
    "HunyuanVideo",
    Side(has=(*_HUNYUAN_ORIGINAL, "vector_in.in_layer"), spellings=_HUNYUAN_SPELLINGS),
    Side(has=(*_HUNYUAN_THEIRS, "time_text_embed.timestep_embedder.linear_1")),
    (*_HUNYUAN, *_TIME_TEXT),
)

HUNYUAN_VIDEO_15 = Architecture(
    "hunyuan_video15",
    "HunyuanVideo 1.5",
    Side(has=(*_HUNYUAN_ORIGINAL, "vision_in.proj.1"), lacks=("vector_in.in_layer",), spellings=_HUNYUAN_SPELLINGS),
    Side(has=(*_HUNYUAN_THEIRS, "time_embed.timestep_embedder.linear_1")),
    (
        *_HUNYUAN,
        *_BYT5,
        *_embedders("time_embed", "timestep_embedder=time_in timestep_embedder_r=time_r_in"),
        *block("image_embedder", "vision_in", "norm_in=proj.0 linear_1=proj.1 linear_2=proj.3 norm_out=proj.4"),
        one("cond_type_embed", "cond_type_embedding"),
    ),
)

HUNYUAN_IMAGE = Architecture(
    "hunyuan_image",
    "HunyuanImage 2.1",
    Side(has=_HUNYUAN_ORIGINAL, lacks=("vector_in.in_layer", "vision_in.proj.1"), spellings=_HUNYUAN_SPELLINGS),
    Side(has=(*_HUNYUAN_THEIRS, "time_guidance_embed.timestep_embedder.linear_1")),
    (
        *_HUNYUAN,
        *_BYT5,
        *_embedders(
            "time_guidance_embed",
            "timestep_embedder=time_in timestep_embedder_r=time_r_in guidance_embedder=guidance_in",
        ),
    ),
)

TABLES = (HUNYUAN_VIDEO, HUNYUAN_VIDEO_15, HUNYUAN_IMAGE, FLUX2, CHROMA, OVIS_IMAGE, FLUX, LONGCAT_IMAGE)
