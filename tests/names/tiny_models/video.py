"""Video transformers beside Hunyuan's and Wan."""

from __future__ import annotations

from typing import Any

from .build import Row

_LTX2 = dict(
    in_channels=5,
    out_channels=5,
    num_attention_heads=3,
    attention_head_dim=16,
    cross_attention_dim=48,
    audio_in_channels=6,
    audio_out_channels=6,
    audio_num_attention_heads=4,
    audio_attention_head_dim=16,
    audio_cross_attention_dim=64,
    num_layers=2,
    caption_channels=40,
)

_LTX2_COMFY = dict(
    in_channels=5,
    audio_in_channels=6,
    cross_attention_dim=48,
    audio_cross_attention_dim=64,
    attention_head_dim=16,
    audio_attention_head_dim=16,
    num_attention_heads=3,
    audio_num_attention_heads=4,
    caption_channels=40,
    num_layers=2,
)

_COSMOS = dict(
    in_channels=5,
    out_channels=4,
    num_attention_heads=3,
    attention_head_dim=16,
    num_layers=2,
    text_embed_dim=40,
    adaln_lora_dim=24,
    max_size=(16, 32, 32),
    rope_scale=(1.0, 1.0, 1.0),
    extra_pos_embed_type=None,
)

_COSMOS_COMFY = dict(
    max_img_h=32,
    max_img_w=32,
    max_frames=16,
    in_channels=5,
    out_channels=4,
    patch_spatial=2,
    patch_temporal=1,
    model_channels=48,
    num_blocks=2,
    num_heads=3,
    crossattn_emb_channels=40,
    pos_emb_cls="rope3d",
    use_adaln_lora=True,
    adaln_lora_dim=24,
)


def _mochi(**kwargs: Any) -> Any:
    """diffusers' Mochi with feed-forwards as wide as ComfyUI has them, which takes no other width."""
    from diffusers import MochiTransformer3DModel
    from diffusers.models.attention import FeedForward

    model = MochiTransformer3DModel(**kwargs)
    width = model.config.num_attention_heads * model.config.attention_head_dim
    for block in model.transformer_blocks:
        block.ff = FeedForward(width, inner_dim=8192, activation_fn="swiglu", bias=False)
    return model


TINY: dict[str, Row] = {
    "ltx_video": (
        (
            "LTXVideoTransformer3DModel",
            dict(
                in_channels=5,
                out_channels=5,
                num_attention_heads=3,
                attention_head_dim=16,
                cross_attention_dim=48,
                num_layers=2,
                caption_channels=40,
            ),
        ),
        (
            "lightricks.model:LTXVModel",
            dict(
                in_channels=5,
                num_attention_heads=3,
                attention_head_dim=16,
                cross_attention_dim=48,
                num_layers=2,
                caption_channels=40,
            ),
        ),
    ),
    "ltx2": (("LTX2VideoTransformer3DModel", _LTX2), ("lightricks.av_model:LTXAVModel", _LTX2_COMFY)),
    "ltx23": (
        (
            "LTX2VideoTransformer3DModel",
            _LTX2 | dict(gated_attn=True, cross_attn_mod=True, audio_gated_attn=True, audio_cross_attn_mod=True),
        ),
        ("lightricks.av_model:LTXAVModel", _LTX2_COMFY | dict(apply_gated_attention=True, cross_attention_adaln=True)),
    ),
    "cosmos_predict2": (
        ("CosmosTransformer3DModel", dict(_COSMOS)),
        ("cosmos.predict2:MiniTrainDIT", dict(_COSMOS_COMFY)),
    ),
    "anima": (("CosmosTransformer3DModel", dict(_COSMOS)), ("anima.model:Anima", dict(_COSMOS_COMFY))),
    "cogvideox": (
        (
            "CogVideoXTransformer3DModel",
            dict(
                num_attention_heads=3,
                attention_head_dim=16,
                in_channels=5,
                out_channels=5,
                time_embed_dim=32,
                text_embed_dim=40,
                num_layers=2,
                sample_width=12,
                sample_height=8,
                sample_frames=9,
                max_text_seq_length=9,
                spatial_interpolation_scale=1.0,
                use_rotary_positional_embeddings=True,
            ),
        ),
        (
            "cogvideo.model:CogVideoXTransformer3DModel",
            dict(
                num_attention_heads=3,
                attention_head_dim=16,
                in_channels=5,
                out_channels=5,
                time_embed_dim=32,
                text_embed_dim=40,
                num_layers=2,
                sample_width=12,
                sample_height=8,
                sample_frames=9,
                max_text_seq_length=9,
                spatial_interpolation_scale=1.0,
                use_rotary_positional_embeddings=True,
            ),
        ),
    ),
    "kandinsky5": (
        (
            "Kandinsky5Transformer3DModel",
            dict(
                in_visual_dim=5,
                out_visual_dim=5,
                in_text_dim=40,
                in_text_dim2=24,
                time_dim=32,
                model_dim=48,
                ff_dim=80,
                num_text_blocks=1,
                num_visual_blocks=2,
                axes_dims=(4, 6, 6),
            ),
        ),
        (
            "kandinsky5.model:Kandinsky5",
            dict(
                in_visual_dim=5,
                out_visual_dim=5,
                in_text_dim=40,
                in_text_dim2=24,
                time_dim=32,
                model_dim=48,
                ff_dim=80,
                visual_embed_dim=20,
                num_text_blocks=1,
                num_visual_blocks=2,
                axes_dims=(4, 6, 6),
            ),
        ),
    ),
    "mochi": (
        (
            _mochi,
            dict(
                num_attention_heads=12,
                attention_head_dim=16,
                num_layers=2,
                pooled_projection_dim=96,
                in_channels=5,
                text_embed_dim=40,
            ),
        ),
        (
            "genmo.joint_model.asymm_models_joint:AsymmDiTJoint",
            dict(
                in_channels=5,
                hidden_size_x=192,
                hidden_size_y=96,
                depth=2,
                num_heads=12,
                mlp_ratio_x=64.0,
                mlp_ratio_y=4.0,
                learn_sigma=False,
                qk_norm=True,
                qkv_bias=False,
                timestep_scale=1000.0,
                use_t5=True,
                t5_feat_dim=40,
            ),
        ),
    ),
    "cosmos1": (
        ("CosmosTransformer3DModel", _COSMOS | dict(extra_pos_embed_type="learnable")),
        (
            "cosmos.model:GeneralDIT",
            _COSMOS_COMFY
            | dict(block_x_format="THWBD", affline_emb_norm=True, extra_per_block_abs_pos_emb=True)
            | dict(extra_per_block_abs_pos_emb_type="learnable"),
        ),
    ),
}
