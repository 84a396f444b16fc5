"""HunyuanVideo, HunyuanImage and HunyuanDiT."""

from __future__ import annotations

from typing import Any

from .build import Row


def _hunyuan(**kw: Any) -> dict[str, Any]:
    return (
        dict(
            in_channels=5,
            out_channels=5,
            vec_in_dim=24,
            context_in_dim=40,
            hidden_size=48,
            mlp_ratio=4.0,
            num_heads=3,
            depth=2,
            depth_single_blocks=2,
            axes_dim=[4, 6, 6],
            theta=256,
            patch_size=[1, 2, 2],
            qkv_bias=True,
            guidance_embed=True,
            byt5=False,
            meanflow=False,
            use_cond_type_embedding=False,
            vision_in_dim=None,
            meanflow_sum=False,
        )
        | kw
    )


TINY: dict[str, Row] = {
    "hunyuan_video": (
        (
            "HunyuanVideoTransformer3DModel",
            dict(
                in_channels=5,
                out_channels=5,
                num_attention_heads=3,
                attention_head_dim=16,
                num_layers=2,
                num_single_layers=2,
                num_refiner_layers=2,
                text_embed_dim=40,
                pooled_projection_dim=24,
                rope_axes_dim=(4, 6, 6),
            ),
        ),
        ("hunyuan_video.model:HunyuanVideo", _hunyuan()),
    ),
    "hunyuan_video15": (
        (
            "HunyuanVideo15Transformer3DModel",
            dict(
                in_channels=5,
                out_channels=5,
                num_attention_heads=3,
                attention_head_dim=16,
                num_layers=2,
                num_refiner_layers=2,
                text_embed_dim=40,
                text_embed_2_dim=1472,
                image_embed_dim=36,
                rope_axes_dim=(4, 6, 6),
            ),
        ),
        (
            "hunyuan_video.model:HunyuanVideo",
            _hunyuan(
                vec_in_dim=None,
                depth_single_blocks=0,
                patch_size=[1, 1, 1],
                guidance_embed=False,
                byt5=True,
                use_cond_type_embedding=True,
                vision_in_dim=36,
            ),
        ),
    ),
    "hunyuan_image": (
        (
            "HunyuanImageTransformer2DModel",
            dict(
                in_channels=5,
                out_channels=5,
                num_attention_heads=3,
                attention_head_dim=16,
                num_layers=2,
                num_single_layers=2,
                num_refiner_layers=2,
                text_embed_dim=40,
                text_embed_2_dim=1472,
                rope_axes_dim=(8, 8),
                guidance_embeds=True,
                use_meanflow=True,
            ),
        ),
        (
            "hunyuan_video.model:HunyuanVideo",
            _hunyuan(vec_in_dim=None, patch_size=[1, 1], axes_dim=[8, 8], byt5=True, meanflow=True),
        ),
    ),
    "hunyuan_dit": (
        (
            "HunyuanDiT2DModel",
            dict(
                num_attention_heads=3,
                attention_head_dim=16,
                in_channels=4,
                patch_size=2,
                sample_size=16,
                hidden_size=48,
                num_layers=4,
                cross_attention_dim=40,
                cross_attention_dim_t5=56,
                pooled_projection_dim=1024,
                text_len=5,
                text_len_t5=7,
                use_style_cond_and_image_meta_size=False,
            ),
        ),
        (
            "hydit.models:HunYuanDiT",
            dict(
                input_size=16,
                hidden_size=48,
                depth=4,
                num_heads=3,
                text_states_dim=40,
                text_states_dim_t5=56,
                text_len=5,
                text_len_t5=7,
            ),
        ),
    ),
}
