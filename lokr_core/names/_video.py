"""Video transformers: Wan, LTX-Video, LTX-2, Cosmos, Kandinsky 5, CogVideoX, Mochi; `_flux` has Hunyuan's."""

from __future__ import annotations

import re
from collections.abc import Collection

from ._words import (
    ORIGINAL,
    Architecture,
    Rule,
    Side,
    attention,
    block,
    feed_forward,
    fused,
    one,
    one_naming,
    pairs,
    two_layers,
)

_TWO = "transformer_blocks.{i}"


def _wan_stack(stack: str) -> tuple[Rule, ...]:
    return (
        *attention(f"{stack}.attn1", f"{stack}.self_attn", "q k v o", "norm_q norm_k"),
        *attention(f"{stack}.attn2", f"{stack}.cross_attn", "q k v o", "norm_q norm_k"),
        *block(f"{stack}.attn2", f"{stack}.cross_attn", "add_k_proj=k_img add_v_proj=v_img norm_added_k=norm_k_img"),
        *feed_forward(f"{stack}.ffn", f"{stack}.ffn"),
        one(f"{stack}.norm2", f"{stack}.norm3"),
    )


_FACE = "face_adapter.fuser_blocks.{i}"

_FACES = (  # of Wan Animate
    fused(f"{_FACE}.linear1_kv", "face_adapter.{i}.", "to_k to_v"),
    *block("face_adapter.{i}", _FACE, "to_q=linear1_q to_out=linear2 norm_q=q_norm norm_k=k_norm"),
    *block("face_encoder", "face_encoder", "conv1_local=conv1_local.conv conv2=conv2.conv conv3=conv3.conv"),
)

# Covers t2v, i2v, VACE, Animate, and what is built like them in diffusers: SkyReels-V2, ChronoEdit, AnyFlow, Helios.
# The extra modules of further variants (camera, S2V, HuMo, SCAIL, WanDancer) have only original names. Animate's motion
# encoder has bare parameters in diffusers, which trainers do not touch.
WAN = Architecture(
    "wan",
    "Wan 2.1 and 2.2",
    Side(has=("blocks.0.self_attn.q", "blocks.0.cross_attn.o", "head.head", "time_projection.1")),
    Side(has=("blocks.0.attn1.to_q", "blocks.0.ffn.net.0.proj", "condition_embedder.time_proj")),
    (
        *_wan_stack("blocks.{i}"),
        *_wan_stack("vace_blocks.{i}"),
        *block("vace_blocks.{i}", "vace_blocks.{i}", "proj_in=before_proj proj_out=after_proj"),
        *two_layers("condition_embedder.time_embedder", "time_embedding"),
        *two_layers("condition_embedder.text_embedder", "text_embedding"),
        *block("condition_embedder.image_embedder", "img_emb.proj", "norm1=0 norm2=4"),
        *feed_forward("condition_embedder.image_embedder.ff", "img_emb.proj", "1 3"),
        *pairs("condition_embedder.time_proj=time_projection.1 proj_out=head.head"),
        *feed_forward("fps_projection", "fps_projection"),  # of SkyReels-V2
        *_FACES,
    ),
)

_LTX_ATTENTIONS = ("attn1", "attn2", "audio_attn1", "audio_attn2", "audio_to_video_attn", "video_to_audio_attn")
_LTX_MODULATION = "emb.timestep_embedder.linear_1 emb.timestep_embedder.linear_2 linear"

_LTX = (
    one("proj_in", "patchify_proj"),
    *block("time_embed", "adaln_single", _LTX_MODULATION),
    *block("prompt_adaln", "prompt_adaln_single", _LTX_MODULATION),  # of LTX-2.3
    *block(_TWO, _TWO, *(f"{name}.norm_q={name}.q_norm {name}.norm_k={name}.k_norm" for name in _LTX_ATTENTIONS)),
)

LTX_VIDEO = Architecture(
    "ltx_video",
    "LTX-Video",
    Side(
        has=("patchify_proj", "adaln_single.linear", "transformer_blocks.0.attn2.to_k"), lacks=("audio_patchify_proj",)
    ),
    Side(
        has=("proj_in", "time_embed.linear", "caption_projection.linear_1", "transformer_blocks.0.attn2.to_k"),
        lacks=("audio_proj_in",),
    ),
    _LTX,
)

# The connectors of the text embeddings are a separate model in diffusers; here they have original names.
LTX2 = Architecture(
    "ltx2",
    "LTX-2",
    Side(has=("patchify_proj", "audio_patchify_proj", "adaln_single.linear")),
    Side(has=("proj_in", "audio_proj_in", "time_embed.linear")),
    (
        *_LTX,
        one("audio_proj_in", "audio_patchify_proj"),
        *block("audio_time_embed", "audio_adaln_single", _LTX_MODULATION),
        *block("audio_prompt_adaln", "audio_prompt_adaln_single", _LTX_MODULATION),
        *block("av_cross_attn_video_scale_shift", "av_ca_video_scale_shift_adaln_single", _LTX_MODULATION),
        *block("av_cross_attn_audio_scale_shift", "av_ca_audio_scale_shift_adaln_single", _LTX_MODULATION),
        *block("av_cross_attn_video_a2v_gate", "av_ca_a2v_gate_adaln_single", _LTX_MODULATION),
        *block("av_cross_attn_audio_v2a_gate", "av_ca_v2a_gate_adaln_single", _LTX_MODULATION),
    ),
)

_COSMOS_ENDS = (
    *two_layers("time_embed.t_embedder", "t_embedder.1", "linear_1 linear_2"),
    *pairs("patch_embed.proj=x_embedder.proj.1 proj_out=final_layer.linear"),
)

_COSMOS_ATTENTION = ("q_proj k_proj v_proj output_proj", "q_norm k_norm")

_COSMOS = (
    *_COSMOS_ENDS,
    *two_layers(f"{_TWO}.norm1", "blocks.{i}.adaln_modulation_self_attn", "1 2"),
    *two_layers(f"{_TWO}.norm2", "blocks.{i}.adaln_modulation_cross_attn", "1 2"),
    *two_layers(f"{_TWO}.norm3", "blocks.{i}.adaln_modulation_mlp", "1 2"),
    *attention(f"{_TWO}.attn1", "blocks.{i}.self_attn", *_COSMOS_ATTENTION),
    *attention(f"{_TWO}.attn2", "blocks.{i}.cross_attn", *_COSMOS_ATTENTION),
    *feed_forward(f"{_TWO}.ff", "blocks.{i}.mlp", "layer1 layer2"),
    one("time_embed.norm", "t_embedding_norm"),
    *two_layers("norm_out", "final_layer.adaln_modulation", "1 2"),
)


def _cosmos1_blocks(side: str, modules: Collection[str]) -> tuple[Rule, ...]:
    """The rules of Cosmos 1's blocks, whose number is part of a name (`block7`)."""
    pattern = r"blocks\.block(\d+)\." if side == ORIGINAL else r"transformer_blocks\.(\d+)\."
    numbers = sorted({int(found[1]) for found in map(re.compile(pattern).match, modules) if found})
    rules: list[Rule] = []
    for number in numbers:
        theirs, ours = f"transformer_blocks.{number}", f"blocks.block{number}.blocks"
        for n in (0, 1):
            rules += attention(
                f"{theirs}.attn{n + 1}", f"{ours}.{n}.block.attn", "to_q.0 to_k.0 to_v.0 to_out.0", "to_q.1 to_k.1"
            )
        for n in (0, 1, 2):
            rules += two_layers(f"{theirs}.norm{n + 1}", f"{ours}.{n}.adaLN_modulation", "1 2")
        rules += feed_forward(f"{theirs}.ff", f"{ours}.2.block", "layer1 layer2")
    return tuple(rules)


_COSMOS_ORIGINAL = ("blocks.0.adaln_modulation_self_attn.1", "blocks.0.self_attn.output_proj", "t_embedder.1.linear_1")

# Cosmos-Predict2 with a text adapter. The transformer has Cosmos' diffusers names; the adapter (llm_adapter) has only
# its authors' names.
ANIMA = Architecture("anima", "Anima", Side(has=(*_COSMOS_ORIGINAL, "llm_adapter.out_proj")), None, _COSMOS)

_LEARNED_POSITIONS = ("learnable_pos_embed",)
_COSMOS_DIFFUSERS = ("patch_embed.proj", "time_embed.t_embedder.linear_1", "transformer_blocks.0.norm1.linear_1")

COSMOS_PREDICT2 = Architecture(
    "cosmos_predict2",
    "Cosmos-Predict2",
    Side(has=_COSMOS_ORIGINAL, lacks=("llm_adapter.out_proj",)),
    Side(has=_COSMOS_DIFFUSERS, lacks=_LEARNED_POSITIONS),
    _COSMOS,
)

COSMOS1 = Architecture(
    "cosmos1",
    "Cosmos 1",
    Side(has=("blocks.block0.blocks.0.block.attn.to_q.0", "t_embedder.1.linear_1", "x_embedder.proj.1")),
    Side(has=(*_COSMOS_DIFFUSERS, *_LEARNED_POSITIONS)),
    (
        *_COSMOS_ENDS,
        one("time_embed.norm", "affline_norm"),
        *two_layers("norm_out", "final_layer.adaLN_modulation", "1 2"),
    ),
    _cosmos1_blocks,
    r"transformer_blocks\.\d+|blocks\.block\d+",
)

KANDINSKY5 = one_naming(
    "kandinsky5", "Kandinsky 5", "visual_transformer_blocks.0.self_attention.to_query", "text_embeddings.in_layer"
)

# The original names here are ComfyUI's. The authors' repository has other names, which are not covered.
COGVIDEOX = Architecture(
    "cogvideox",
    "CogVideoX",
    Side(has=("blocks.0.norm1.linear", "blocks.0.attn_out", "patch_embed.text_proj")),
    Side(has=("transformer_blocks.0.norm1.linear", "transformer_blocks.0.attn1.to_q", "patch_embed.text_proj")),
    (
        *block(_TWO, "blocks.{i}", "norm1.linear norm1.norm norm2.linear norm2.norm"),
        *attention(f"{_TWO}.attn1", "blocks.{i}", "q k v attn_out", "norm_q norm_k"),
        *feed_forward(f"{_TWO}.ff", "blocks.{i}", "ff_proj ff_out"),
        *pairs("time_embedding.linear_1=time_embedding_linear_1 time_embedding.linear_2=time_embedding_linear_2"),
        *pairs("ofs_embedding.linear_1=ofs_embedding_linear_1 ofs_embedding.linear_2=ofs_embedding_linear_2"),
    ),
)

_MOCHI = "blocks.{i}"

MOCHI = Architecture(
    "mochi",
    "Mochi 1",
    Side(has=("t5_yproj", "blocks.0.attn.qkv_y", "x_embedder.proj")),
    Side(has=("time_embed.caption_proj", "transformer_blocks.0.attn1.add_q_proj", "patch_embed.proj")),
    (
        fused(f"{_MOCHI}.attn.qkv_x", f"{_TWO}.attn1.", "to_q to_k to_v"),
        fused(f"{_MOCHI}.attn.qkv_y", f"{_TWO}.attn1.", "add_q_proj add_k_proj add_v_proj"),
        *block(f"{_TWO}.attn1", f"{_MOCHI}.attn", "to_out.0=proj_x norm_q=q_norm_x norm_k=k_norm_x"),
        *block(f"{_TWO}.attn1", f"{_MOCHI}.attn", "to_add_out=proj_y norm_added_q=q_norm_y norm_added_k=k_norm_y"),
        *block(_TWO, _MOCHI, "norm1.linear=mod_x ff.net.2=mlp_x.w2 ff_context.net.2=mlp_y.w2"),
        # The video stream is twice as wide as the text's; the last block's text has only a scale.
        one(f"{_TWO}.norm1_context.linear", f"{_MOCHI}.mod_y", ratio=2),
        one(f"{_TWO}.norm1_context.linear_1", f"{_MOCHI}.mod_y", ratio=0.5),
        # Gated feed-forwards: in diffusers the gate is the lower half of the rows, in the original the upper.
        one(f"{_TWO}.ff.net.0.proj", f"{_MOCHI}.mlp_x.w1", swap=True),
        one(f"{_TWO}.ff_context.net.0.proj", f"{_MOCHI}.mlp_y.w1", swap=True),
        *two_layers("time_embed.timestep_embedder", "t_embedder.mlp"),
        *block("time_embed.pooler", "t5_y_embedder", "to_q to_kv to_out"),
        *pairs("time_embed.caption_proj=t5_yproj patch_embed.proj=x_embedder.proj proj_out=final_layer.linear"),
        one("norm_out.linear", "final_layer.mod", swap=True),
    ),
)

TABLES = (WAN, LTX_VIDEO, LTX2, ANIMA, COSMOS_PREDICT2, COSMOS1, KANDINSKY5, COGVIDEOX, MOCHI)
