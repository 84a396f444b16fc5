"""Further image transformers: SD3, AuraFlow, PixArt, Sana, HunyuanDiT, Qwen-Image, HiDream, Krea 2 and others."""

from __future__ import annotations

from ._words import (
    Architecture,
    PrefixGroup,
    Rule,
    Side,
    attention,
    block,
    feed_forward,
    fused,
    joint_attention,
    one,
    one_naming,
    pairs,
    two_layers,
)

_JOINT, _TWO = "joint_blocks.{i}", "transformer_blocks.{i}"

SD3 = Architecture(
    "sd3",
    "Stable Diffusion 3 and 3.5",
    Side(has=("joint_blocks.0.context_block.attn.qkv", "x_embedder.proj")),
    Side(has=("transformer_blocks.0.attn.add_q_proj", "pos_embed.proj", "time_text_embed.text_embedder.linear_1")),
    (
        *joint_attention(f"{_TWO}.attn", f"{_JOINT}.x_block.attn", f"{_JOINT}.context_block.attn", "ln_q ln_k"),
        fused(f"{_JOINT}.x_block.attn2.qkv", f"{_TWO}.attn2.", "to_q to_k to_v"),
        *block(f"{_TWO}.attn2", f"{_JOINT}.x_block.attn2", "to_qkv=qkv to_out.0=proj norm_q=ln_q norm_k=ln_k"),
        one(f"{_TWO}.norm1.linear", f"{_JOINT}.x_block.adaLN_modulation.1"),
        *feed_forward(f"{_TWO}.ff", f"{_JOINT}.x_block.mlp", "fc1 fc2"),
        *feed_forward(f"{_TWO}.ff_context", f"{_JOINT}.context_block.mlp", "fc1 fc2"),
        one(f"{_TWO}.norm1_context.linear", f"{_JOINT}.context_block.adaLN_modulation.1", ratio=6),
        # The last block's context has only shift and scale, in reverse order as in the final layer.
        one(f"{_TWO}.norm1_context.linear", f"{_JOINT}.context_block.adaLN_modulation.1", ratio=2, swap=True),
        *two_layers("time_text_embed.timestep_embedder", "t_embedder.mlp"),
        *two_layers("time_text_embed.text_embedder", "y_embedder.mlp"),
        *pairs("pos_embed.proj=x_embedder.proj proj_out=final_layer.linear"),
        one("norm_out.linear", "final_layer.adaLN_modulation.1", swap=True),
    ),
)

_AURAFLOW_FF = "linear_1=c_fc1 linear_2=c_fc2 out_projection=c_proj"

AURAFLOW = Architecture(
    "auraflow",
    "AuraFlow",
    Side(has=("double_layers.0.attn.w1q", "cond_seq_linear")),
    Side(has=("joint_transformer_blocks.0.attn.add_q_proj", "time_step_proj.linear_1")),
    (
        *block(
            "joint_transformer_blocks.{i}",
            "double_layers.{i}",
            "attn.add_q_proj=attn.w1q attn.add_k_proj=attn.w1k attn.add_v_proj=attn.w1v attn.to_add_out=attn.w1o",
            "norm1.linear=modX.1 norm1_context.linear=modC.1",
        ),
        *block("joint_transformer_blocks.{i}.ff", "double_layers.{i}.mlpX", _AURAFLOW_FF),
        *block("joint_transformer_blocks.{i}.ff_context", "double_layers.{i}.mlpC", _AURAFLOW_FF),
        *attention("joint_transformer_blocks.{i}.attn", "double_layers.{i}.attn", "w2q w2k w2v w2o"),
        one("single_transformer_blocks.{i}.norm1.linear", "single_layers.{i}.modCX.1"),
        *block("single_transformer_blocks.{i}.ff", "single_layers.{i}.mlp", _AURAFLOW_FF),
        *attention("single_transformer_blocks.{i}.attn", "single_layers.{i}.attn", "w1q w1k w1v w1o"),
        *two_layers("time_step_proj", "t_embedder.mlp"),
        *pairs("context_embedder=cond_seq_linear pos_embed.proj=init_x_linear proj_out=final_linear"),
        one("norm_out.linear", "modF.1", swap=True),
    ),
)

_PIXART = (  # the blocks of PixArt and Sana
    fused("blocks.{i}.attn.qkv", f"{_TWO}.attn1.", "to_q to_k to_v"),
    fused("blocks.{i}.cross_attn.kv_linear", f"{_TWO}.attn2.", "to_k to_v"),
    *block(
        _TWO, "blocks.{i}", "attn1.to_out.0=attn.proj attn2.to_q=cross_attn.q_linear attn2.to_out.0=cross_attn.proj"
    ),
    *two_layers("caption_projection", "y_embedder.y_proj", "fc1 fc2"),
)

PIXART = Architecture(
    "pixart",
    "PixArt Alpha and Sigma",
    Side(has=("t_block.1", "blocks.0.cross_attn.kv_linear", "y_embedder.y_proj.fc1")),
    Side(
        has=("adaln_single.linear", "caption_projection.linear_1", "pos_embed.proj", "transformer_blocks.0.attn2.to_k")
    ),
    (
        *_PIXART,
        *feed_forward(f"{_TWO}.ff", "blocks.{i}.mlp", "fc1 fc2"),
        *two_layers("adaln_single.emb.timestep_embedder", "t_embedder.mlp"),
        *two_layers("adaln_single.emb.resolution_embedder", "csize_embedder.mlp"),
        *two_layers("adaln_single.emb.aspect_ratio_embedder", "ar_embedder.mlp"),
        *pairs("adaln_single.linear=t_block.1 pos_embed.proj=x_embedder.proj proj_out=final_layer.linear"),
    ),
)

# ComfyUI itself has no Sana; trainers and pipelines use diffusers' names.
SANA = Architecture(
    "sana",
    "Sana",
    Side(has=("t_block.1", "blocks.0.cross_attn.kv_linear", "blocks.0.mlp.inverted_conv.conv")),
    Side(has=("time_embed.linear", "patch_embed.proj", "transformer_blocks.0.ff.conv_inverted")),
    (
        *_PIXART,
        *block(
            f"{_TWO}.ff",
            "blocks.{i}.mlp",
            "conv_inverted=inverted_conv.conv conv_depth=depth_conv.conv conv_point=point_conv.conv",
        ),
        *two_layers("time_embed.emb.timestep_embedder", "t_embedder.mlp"),
        *pairs(
            "time_embed.linear=t_block.1 caption_norm=attention_y_norm",
            "patch_embed.proj=x_embedder.proj proj_out=final_layer.linear",
        ),
    ),
)

QWEN_IMAGE = Architecture(
    "qwen_image",
    "Qwen-Image and Qwen-Image-Edit",
    Side(has=("transformer_blocks.0.img_mod.1", "transformer_blocks.0.txt_mlp.net.0.proj", "txt_in")),
    None,
    (
        fused(f"{_TWO}.attn.to_qkv", f"{_TWO}.attn.", "to_q to_k to_v"),
        fused(f"{_TWO}.attn.to_added_qkv", f"{_TWO}.attn.", "add_q_proj add_k_proj add_v_proj"),
    ),
)

# The gate of the experts is a bare parameter that trainers leave alone.
HIDREAM = one_naming(
    "hidream", "HiDream-I1", "double_stream_blocks.0.block.attn1.to_q_t", "caption_projection.0.linear"
)

ERNIE_IMAGE = one_naming(
    "ernie_image", "ERNIE-Image", "text_proj", "layers.0.self_attention.to_q", "layers.0.mlp.linear_fc2"
)

JOYIMAGE = one_naming("joyimage", "JoyImage-Edit", "double_blocks.0.attn.img_attn_qkv", "condition_embedder.time_proj")

# The authors' class wraps all of it in `model`, which ComfyUI leaves out; it also leaves out the mergers of the vision
# tower's inner layers, which do not act here.
HIDREAM_O1 = one_naming(
    "hidream_o1",
    "HiDream-O1",
    "x_embedder.proj1",
    "final_layer2.linear",
    prefixes=(PrefixGroup("language_model.layers.0.self_attn.q_proj", ("", "model.")),),
)


def _krea_block(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        *attention(f"{theirs}.attn", f"{ours}.attn", "wq wk wv wo", "qknorm.qnorm qknorm.knorm"),
        # Some trainers write `to_out` for `to_out.0`.
        *block(theirs, ours, "attn.to_out=attn.wo attn.to_gate=attn.gate norm1=prenorm norm2=postnorm"),
        *block(f"{theirs}.ff", f"{ours}.mlp", "gate up down"),
    )


KREA2 = Architecture(
    "krea2",
    "Krea 2",
    Side(has=("first", "tproj.1", "txtfusion.projector", "blocks.0.attn.wq")),
    Side(has=("img_in", "time_mod_proj", "text_fusion.projector", "transformer_blocks.0.attn.to_gate")),
    (
        *_krea_block(_TWO, "blocks.{i}"),
        *_krea_block("text_fusion.layerwise_blocks.{i}", "txtfusion.layerwise_blocks.{i}"),
        *_krea_block("text_fusion.refiner_blocks.{i}", "txtfusion.refiner_blocks.{i}"),
        *two_layers("time_embed", "tmlp"),
        *two_layers("txt_in", "txtmlp", "1 3"),
        *pairs("img_in=first time_mod_proj=tproj.1 txt_in.norm=txtmlp.0 text_fusion.projector=txtfusion.projector"),
        *block("final_layer", "last", "linear norm"),
    ),
)

# diffusers swaps norm2 and norm3 of a block; the other names of a file tell which its `norm2` is (`_crossed`).
HUNYUAN_DIT = Architecture(
    "hunyuan_dit",
    "HunyuanDiT",
    Side(has=("mlp_t5.0", "blocks.0.attn1.Wqkv", "x_embedder.proj")),
    Side(has=("text_embedder.linear_1", "time_extra_emb.pooler.k_proj", "blocks.0.attn1.to_q")),
    (
        fused("blocks.{i}.attn1.Wqkv", "blocks.{i}.attn1.", "to_q to_k to_v"),
        fused("blocks.{i}.attn2.kv_proj", "blocks.{i}.attn2.", "to_k to_v"),
        *block("blocks.{i}.attn1", "blocks.{i}.attn1", "to_out.0=out_proj norm_q=q_norm norm_k=k_norm"),
        *block("blocks.{i}.attn2", "blocks.{i}.attn2", "to_q=q_proj to_out.0=out_proj norm_q=q_norm norm_k=k_norm"),
        *block(
            "blocks.{i}", "blocks.{i}", "norm1.linear=default_modulation.1 norm1.norm=norm1 norm2=norm3 norm3=norm2"
        ),
        *feed_forward("blocks.{i}.ff", "blocks.{i}.mlp", "fc1 fc2"),
        *two_layers("time_extra_emb.timestep_embedder", "t_embedder.mlp"),
        *two_layers("time_extra_emb.extra_embedder", "extra_embedder"),
        *block("time_extra_emb.pooler", "pooler", "q_proj k_proj v_proj c_proj"),
        *two_layers("text_embedder", "mlp_t5"),
        *pairs("pos_embed.proj=x_embedder.proj proj_out=final_layer.linear"),
        one("norm_out.linear", "final_layer.adaLN_modulation.1", swap=True),
    ),
)

TABLES = (HUNYUAN_DIT, SD3, AURAFLOW, SANA, PIXART, QWEN_IMAGE, HIDREAM, ERNIE_IMAGE, JOYIMAGE, HIDREAM_O1, KREA2)
