"""ACE-Step, Stable Audio, and (its own family, too small for a file) Stable Cascade."""

from __future__ import annotations

from ._words import Architecture, PrefixGroup, Rule, Side, attention, block, feed_forward, fused, one, one_naming, pairs

_ACE_ATTENTION = ("q_proj k_proj v_proj o_proj", "q_norm k_norm")

# diffusers ships only the decoder; encoders, tokenizer and detokenizer have only their authors' names.
ACE_STEP_15 = Architecture(
    "ace_step15",
    "ACE-Step 1.5",
    # Trainers wrap only the decoder, so their names lack its prefix.
    Side(
        has=("decoder.layers.0.cross_attn.q_proj", "decoder.condition_embedder", "decoder.time_embed_r.linear_1"),
        prefixes=(PrefixGroup("layers.0.cross_attn.q_proj", ("decoder.", "")),),
    ),
    Side(has=("layers.0.cross_attn.to_q", "condition_embedder", "time_embed_r.linear_1")),
    (
        *attention("layers.{i}.self_attn", "decoder.layers.{i}.self_attn", *_ACE_ATTENTION),
        *attention("layers.{i}.cross_attn", "decoder.layers.{i}.cross_attn", *_ACE_ATTENTION),
        *pairs("proj_in_conv=decoder.proj_in.1 proj_out_conv=decoder.proj_out.1"),
        *block("layers.{i}", "decoder.layers.{i}", "self_attn_norm cross_attn_norm mlp_norm"),
        *block("layers.{i}.mlp", "decoder.layers.{i}.mlp", "gate_proj up_proj down_proj"),
        *pairs("condition_embedder=decoder.condition_embedder norm_out=decoder.norm_out"),
        *block("time_embed", "decoder.time_embed", "linear_1 linear_2 time_proj"),
        *block("time_embed_r", "decoder.time_embed_r", "linear_1 linear_2 time_proj"),
    ),
)

ACE_STEP = one_naming(  # the first version
    "ace_step",
    "ACE-Step",
    "speaker_embedder",
    "lyric_encoder.embed.out.0",
    "transformer_blocks.0.cross_attn.add_q_proj",
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
            "attn1.to_out.0=self_attn.to_out attn2.to_q=cross_attn.to_q attn2.to_out.0=cross_attn.to_out",
            "norm1=pre_norm norm2=cross_attend_norm norm3=ff_norm",
        ),
        *feed_forward("transformer_blocks.{i}.ff", "transformer.layers.{i}.ff.ff", "0.proj 2"),
        *block("timestep_proj", "to_timestep_embed", "0 2"),
        *block("global_proj", "to_global_embed", "0 2"),
        *block("cross_attention_proj", "to_cond_embed", "0 2"),
        *pairs("proj_in=transformer.project_in proj_out=transformer.project_out"),
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
        # Differential attention: the original's rows are q1, k1, v, q2, k2, those of diffusers q1, q2, k1, k2, v.
        Rule(_SELF[1], _SELF[:1], ratio=5, order=(0, 3, 1, 4, 2)),
        *block(
            "transformer_blocks.{i}",
            "transformer.layers.{i}",
            "ff.proj_in=ff.ff.0.proj ff.proj_out=ff.ff.2 pre_norm cross_attend_norm ff_norm",
            "self_attn.to_out self_attn.q_norm self_attn.k_norm to_local_embed.0 to_local_embed.2",
            "cross_attn.to_q cross_attn.to_kv cross_attn.to_out cross_attn.q_norm cross_attn.k_norm",
        ),
        *block("global_cond_embedder", "transformer.global_cond_embedder", "0 2"),
        *pairs("proj_in=transformer.project_in proj_out=transformer.project_out"),
    ),
)


def _cascade_attention(path: str) -> tuple[Rule, ...]:
    return (
        *attention(path, f"{path}.attn", "to_q to_k to_v out_proj"),
        # The authors use PyTorch's MultiheadAttention, whose in_proj_weight is query, key and value.
        fused(f"{path}.attn", f"{path}.", "to_q to_k to_v"),
    )


_CASCADE = (
    *_cascade_attention("down_blocks.{i}.{j}.attention"),
    *_cascade_attention("up_blocks.{i}.{j}.attention"),
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
