"""ACE-Step and Stable Audio; and Stable Cascade, which shares with neither but is as small."""

from __future__ import annotations

from ._words import Architecture, Prefix, Rule, Side, block, fused, one


def _ace_attention(name: str) -> tuple[Rule, ...]:
    return block(
        f"layers.{{i}}.{name}",
        f"decoder.layers.{{i}}.{name}",
        ("to_q", "q_proj"),
        ("to_k", "k_proj"),
        ("to_v", "v_proj"),
        ("to_out.0", "o_proj"),
        ("norm_q", "q_norm"),
        ("norm_k", "k_norm"),
    )


ACE_STEP_15 = Architecture(
    "ace_step15",
    "ACE-Step 1.5",
    # Trainers wrap the decoder alone, so their names lack its prefix.
    Side(
        has=("decoder.layers.0.cross_attn.q_proj", "decoder.condition_embedder", "decoder.time_embed_r.linear_1"),
        prefixes=(Prefix("layers.0.cross_attn.q_proj", ("decoder.", "")),),
    ),
    Side(has=("layers.0.cross_attn.to_q", "condition_embedder", "time_embed_r.linear_1")),
    (
        *_ace_attention("self_attn"),
        *_ace_attention("cross_attn"),
        one("proj_in_conv", "decoder.proj_in.1"),
        one("proj_out_conv", "decoder.proj_out.1"),
        *block(
            "layers.{i}",
            "decoder.layers.{i}",
            *(
                (name, name)
                for name in (
                    "self_attn_norm",
                    "cross_attn_norm",
                    "mlp_norm",
                    "mlp.gate_proj",
                    "mlp.up_proj",
                    "mlp.down_proj",
                )
            ),
        ),
        *(one(name, f"decoder.{name}") for name in ("condition_embedder", "norm_out")),
        *(
            one(f"{embed}.{name}", f"decoder.{embed}.{name}")
            for embed in ("time_embed", "time_embed_r")
            for name in ("linear_1", "linear_2", "time_proj")
        ),
    ),
    note="diffusers ships the decoder alone; the encoders, tokenizer and detokenizer beside it have their authors' "
    "names only.",
)

ACE_STEP = Architecture(
    "ace_step",
    "ACE-Step",
    Side(has=("speaker_embedder", "lyric_encoder.embed.out.0", "transformer_blocks.0.cross_attn.add_q_proj")),
    None,
    note="The first version. One name space: the authors' names and ComfyUI's are the same.",
)

STABLE_AUDIO = Architecture(
    "stable_audio",
    "Stable Audio",
    Side(
        has=("transformer.layers.0.self_attn.to_qkv", "to_timestep_embed.0", "to_cond_embed.0"),
        lacks=("transformer.global_cond_embedder.0",),
    ),
    Side(has=("timestep_proj.0", "cross_attention_proj.0", "transformer_blocks.0.attn2.to_k")),
    (
        fused("transformer.layers.{i}.self_attn.to_qkv", "transformer_blocks.{i}.attn1.", "to_q to_k to_v"),
        fused("transformer.layers.{i}.cross_attn.to_kv", "transformer_blocks.{i}.attn2.", "to_k to_v"),
        *block(
            "transformer_blocks.{i}",
            "transformer.layers.{i}",
            ("attn1.to_out.0", "self_attn.to_out"),
            ("attn2.to_q", "cross_attn.to_q"),
            ("attn2.to_out.0", "cross_attn.to_out"),
            ("ff.net.0.proj", "ff.ff.0.proj"),
            ("ff.net.2", "ff.ff.2"),
            ("norm1", "pre_norm"),
            ("norm2", "cross_attend_norm"),
            ("norm3", "ff_norm"),
        ),
        *(
            one(f"{theirs}.{n}", f"{ours}.{n}")
            for theirs, ours in (
                ("timestep_proj", "to_timestep_embed"),
                ("global_proj", "to_global_embed"),
                ("cross_attention_proj", "to_cond_embed"),
            )
            for n in (0, 2)
        ),
        one("proj_in", "transformer.project_in"),
        one("proj_out", "transformer.project_out"),
    ),
)

_SELF = ("transformer_blocks.{i}.self_attn.to_qkv", "transformer.layers.{i}.self_attn.to_qkv")

STABLE_AUDIO_3 = Architecture(
    "stable_audio3",
    "Stable Audio 3",
    Side(has=("transformer.layers.0.self_attn.to_qkv", "transformer.global_cond_embedder.0", "to_cond_embed.0")),
    Side(has=("transformer_blocks.0.self_attn.to_qkv", "global_cond_embedder.0", "to_cond_embed.0")),
    (
        one(*_SELF, ratio=3),
        # Two attentions, one taken from the other: diffusers has both queries first, then both keys, then the values.
        Rule(_SELF[1], _SELF[:1], ratio=5, order=(0, 3, 1, 4, 2)),
        *block(
            "transformer_blocks.{i}",
            "transformer.layers.{i}",
            ("ff.proj_in", "ff.ff.0.proj"),
            ("ff.proj_out", "ff.ff.2"),
            *(
                (name, name)
                for name in (
                    "self_attn.to_out",
                    "cross_attn.to_q",
                    "cross_attn.to_kv",
                    "cross_attn.to_out",
                    *(
                        f"{attention}.{norm}"
                        for attention in ("self_attn", "cross_attn")
                        for norm in ("q_norm", "k_norm")
                    ),
                    "to_local_embed.0",
                    "to_local_embed.2",
                    "pre_norm",
                    "cross_attend_norm",
                    "ff_norm",
                )
            ),
        ),
        *block("global_cond_embedder", "transformer.global_cond_embedder", ("0", "0"), ("2", "2")),
        one("proj_in", "transformer.project_in"),
        one("proj_out", "transformer.project_out"),
    ),
)

_CASCADE = tuple(
    rule
    for side in ("down_blocks", "up_blocks")
    for rule in (
        *block(
            f"{side}.{{i}}.{{j}}.attention",
            f"{side}.{{i}}.{{j}}.attention.attn",
            ("to_q", "to_q"),
            ("to_k", "to_k"),
            ("to_v", "to_v"),
            ("to_out.0", "out_proj"),
        ),
        # The authors hold the attention as PyTorch's own layer, query, key and value in one weight.
        fused(f"{side}.{{i}}.{{j}}.attention.attn", f"{side}.{{i}}.{{j}}.attention.", "to_q to_k to_v"),
    )
)

# OneTrainer's OMI files.
_CASCADE_OMI = (tuple((f".attention.to_{name}", f".attention.attn.in_proj.{part}") for part, name in enumerate("qkv")),)

_CASCADE_HAS = ("clf.1", "down_blocks.0.0.channelwise.0")

STABLE_CASCADE_C = Architecture(
    "stable_cascade_c",
    "Stable Cascade, stage C",
    Side(has=(*_CASCADE_HAS, "clip_txt_mapper"), lacks=("down_blocks.0.2.attention.to_q",)),
    Side(has=(*_CASCADE_HAS, "clip_txt_mapper", "down_blocks.0.2.attention.to_q"), spellings=_CASCADE_OMI),
    _CASCADE,
)

STABLE_CASCADE_B = Architecture(
    "stable_cascade_b",
    "Stable Cascade, stage B",
    Side(has=(*_CASCADE_HAS, "clip_mapper")),
    Side(has=(*_CASCADE_HAS, "clip_txt_pooled_mapper"), lacks=("clip_txt_mapper",), spellings=_CASCADE_OMI),
    (*_CASCADE, one("clip_txt_pooled_mapper", "clip_mapper")),
)

TABLES = (ACE_STEP_15, ACE_STEP, STABLE_AUDIO, STABLE_AUDIO_3, STABLE_CASCADE_C, STABLE_CASCADE_B)
