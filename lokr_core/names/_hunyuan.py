"""HunyuanVideo, HunyuanVideo 1.5, HunyuanImage 2.1 and HunyuanDiT."""

from __future__ import annotations

from ._flux import DOUBLE_BLOCKS, MODULATION, SINGLE_BLOCKS, embedders
from ._words import Architecture, Rule, Side, block, feed_forward, fused, one, two_layers

_REFINER = "context_embedder.token_refiner.refiner_blocks.{i}"
_TOKENS = "txt_in.individual_token_refiner.blocks.{i}"

_COMMON: tuple[Rule, ...] = (
    *(rule for rule in (*DOUBLE_BLOCKS, *SINGLE_BLOCKS, *MODULATION) if rule.original not in ("img_in", "txt_in")),
    one("x_embedder.proj", "img_in.proj"),
    one("context_embedder.proj_in", "txt_in.input_embedder"),
    *embedders(
        "context_embedder.time_text_embed", timestep_embedder="txt_in.t_embedder", text_embedder="txt_in.c_embedder"
    ),
    fused(f"{_TOKENS}.self_attn.qkv", f"{_REFINER}.attn.", "to_q to_k to_v"),
    *block(
        _REFINER,
        _TOKENS,
        ("attn.to_out.0", "self_attn.proj"),
        ("norm_out.linear", "adaLN_modulation.1"),
        "norm1",
        "norm2",
    ),
    *feed_forward(f"{_REFINER}.ff", f"{_TOKENS}.mlp"),
)

_BYT5 = block(
    "context_embedder_2",
    "byt5_in",
    ("norm", "layernorm"),
    ("linear_1", "fc1"),
    ("linear_2", "fc2"),
    ("linear_3", "fc3"),
)

_SHORT = (
    ("_mod.lin", "_mod.linear"),
    ("modulation.lin", "modulation.linear"),
    ("_attn.qkv", "_attn_qkv"),
    ("_attn.proj", "_attn_proj"),
)
_CONTEXT = (("c_embedder.in_layer", "c_embedder.linear_1"), ("c_embedder.out_layer", "c_embedder.linear_2"))


def _timesteps(*embedders: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (f"{embedder}.{ours}", f"{embedder}.{theirs}")
        for embedder in embedders
        for ours, theirs in (("in_layer", "mlp.0"), ("out_layer", "mlp.2"))
    )


_SPELLINGS = (
    # The authors' own repository, kept by musubi-tuner; diffusion-pipe keeps it for the blocks.
    (
        *_SHORT,
        ("mlp.0", "mlp.fc1"),
        ("mlp.2", "mlp.fc2"),
        *_CONTEXT,
        *_timesteps("time_in", "guidance_in", "t_embedder"),
    ),
    # OneTrainer's OMI files.
    (
        *_SHORT,
        ("mlp.0", "mlp.fc0"),
        ("mlp.2", "mlp.fc2"),
        *_CONTEXT,
        *_timesteps("time_in", "guidance_in"),
        ("t_embedder.in_layer", "t_embedder.linear_1"),
        ("t_embedder.out_layer", "t_embedder.linear_2"),
    ),
)

_ORIGINAL = ("txt_in.individual_token_refiner.blocks.0.self_attn.qkv", "double_blocks.0.img_attn.qkv", "img_in.proj")
_THEIRS = ("context_embedder.token_refiner.refiner_blocks.0.attn.to_q", "transformer_blocks.0.attn.add_q_proj")

HUNYUAN_VIDEO = Architecture(
    "hunyuan_video",
    "HunyuanVideo",
    Side(has=(*_ORIGINAL, "vector_in.in_layer"), spellings=_SPELLINGS),
    Side(has=(*_THEIRS, "time_text_embed.timestep_embedder.linear_1")),
    (
        *_COMMON,
        *embedders(
            "time_text_embed", timestep_embedder="time_in", text_embedder="vector_in", guidance_embedder="guidance_in"
        ),
    ),
)

HUNYUAN_VIDEO_15 = Architecture(
    "hunyuan_video15",
    "HunyuanVideo 1.5",
    Side(has=(*_ORIGINAL, "vision_in.proj.1"), lacks=("vector_in.in_layer",), spellings=_SPELLINGS),
    Side(has=(*_THEIRS, "time_embed.timestep_embedder.linear_1")),
    (
        *_COMMON,
        *_BYT5,
        *embedders("time_embed", timestep_embedder="time_in", timestep_embedder_r="time_r_in"),
        *block(
            "image_embedder",
            "vision_in",
            ("norm_in", "proj.0"),
            ("linear_1", "proj.1"),
            ("linear_2", "proj.3"),
            ("norm_out", "proj.4"),
        ),
        one("cond_type_embed", "cond_type_embedding"),
    ),
)

HUNYUAN_IMAGE = Architecture(
    "hunyuan_image",
    "HunyuanImage 2.1",
    Side(has=_ORIGINAL, lacks=("vector_in.in_layer", "vision_in.proj.1"), spellings=_SPELLINGS),
    Side(has=(*_THEIRS, "time_guidance_embed.timestep_embedder.linear_1")),
    (
        *_COMMON,
        *_BYT5,
        *embedders(
            "time_guidance_embed",
            timestep_embedder="time_in",
            timestep_embedder_r="time_r_in",
            guidance_embedder="guidance_in",
        ),
    ),
)

HUNYUAN_DIT = Architecture(
    "hunyuan_dit",
    "HunyuanDiT",
    Side(has=("mlp_t5.0", "blocks.0.attn1.Wqkv", "x_embedder.proj")),
    Side(has=("text_embedder.linear_1", "time_extra_emb.pooler.k_proj", "blocks.0.attn1.to_q")),
    (
        fused("blocks.{i}.attn1.Wqkv", "blocks.{i}.attn1.", "to_q to_k to_v"),
        fused("blocks.{i}.attn2.kv_proj", "blocks.{i}.attn2.", "to_k to_v"),
        *block(
            "blocks.{i}",
            "blocks.{i}",
            ("attn1.to_out.0", "attn1.out_proj"),
            ("attn1.norm_q", "attn1.q_norm"),
            ("attn1.norm_k", "attn1.k_norm"),
            ("attn2.to_q", "attn2.q_proj"),
            ("attn2.to_out.0", "attn2.out_proj"),
            ("attn2.norm_q", "attn2.q_norm"),
            ("attn2.norm_k", "attn2.k_norm"),
            ("norm1.linear", "default_modulation.1"),
            ("norm1.norm", "norm1"),
        ),
        *feed_forward("blocks.{i}.ff", "blocks.{i}.mlp", "fc1 fc2"),
        *two_layers("time_extra_emb.timestep_embedder", "t_embedder.mlp"),
        *two_layers("time_extra_emb.extra_embedder", "extra_embedder"),
        *(one(f"time_extra_emb.pooler.{p}", f"pooler.{p}") for p in ("q_proj", "k_proj", "v_proj", "c_proj")),
        *two_layers("text_embedder", "mlp_t5"),
        one("pos_embed.proj", "x_embedder.proj"),
        one("norm_out.linear", "final_layer.adaLN_modulation.1", swap=True),
        one("proj_out", "final_layer.linear"),
    ),
    note="diffusers swaps norm2 and norm3 of a block; a file's `norm2` is ambiguous and means the target's own.",
)

TABLES = (HUNYUAN_VIDEO, HUNYUAN_VIDEO_15, HUNYUAN_IMAGE, HUNYUAN_DIT)
