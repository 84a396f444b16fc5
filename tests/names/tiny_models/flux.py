"""Flux and what is built like it."""

from __future__ import annotations

from typing import Any

from .build import Row


def _flux(**kw: Any) -> dict[str, Any]:
    return (
        dict(
            in_channels=4,
            out_channels=4,
            vec_in_dim=24,
            context_in_dim=40,
            hidden_size=48,
            mlp_ratio=4.0,
            num_heads=3,
            depth=2,
            depth_single_blocks=2,
            axes_dim=[4, 6, 6],
            theta=10000,
            patch_size=2,
            qkv_bias=True,
            guidance_embed=True,
            txt_ids_dims=[],
        )
        | kw
    )


def _flux2(**kw: Any) -> dict[str, Any]:
    return (
        _flux(
            in_channels=20,
            out_channels=20,
            vec_in_dim=None,
            axes_dim=[4, 4, 4, 4],
            theta=2000,
            patch_size=1,
            mlp_ratio=3.0,
            qkv_bias=False,
            ops_bias=False,
            global_modulation=True,
            mlp_silu_act=True,
            default_ref_method="index",
            txt_ids_dims=[3],
        )
        | kw
    )


TINY: dict[str, Row] = {
    "flux": (
        (
            "FluxTransformer2DModel",
            dict(
                in_channels=16,
                num_layers=2,
                num_single_layers=2,
                attention_head_dim=16,
                num_attention_heads=3,
                joint_attention_dim=40,
                pooled_projection_dim=24,
                guidance_embeds=True,
                axes_dims_rope=(4, 6, 6),
            ),
        ),
        ("flux.model:Flux", _flux()),
    ),
    "flux2": (
        (
            "Flux2Transformer2DModel",
            dict(
                in_channels=20,
                num_layers=2,
                num_single_layers=2,
                attention_head_dim=16,
                num_attention_heads=3,
                joint_attention_dim=40,
                axes_dims_rope=(4, 4, 4, 4),
            ),
        ),
        ("flux.model:Flux", _flux2()),
    ),
    "flux2_klein": (
        (
            "Flux2Transformer2DModel",
            dict(
                in_channels=20,
                num_layers=2,
                num_single_layers=2,
                attention_head_dim=16,
                num_attention_heads=3,
                joint_attention_dim=40,
                axes_dims_rope=(4, 4, 4, 4),
                guidance_embeds=False,
            ),
        ),
        ("flux.model:Flux", _flux2(guidance_embed=False)),
    ),
    "longcat_image": (
        (
            "LongCatImageTransformer2DModel",
            dict(
                in_channels=16,
                num_layers=2,
                num_single_layers=2,
                attention_head_dim=16,
                num_attention_heads=3,
                joint_attention_dim=40,
                pooled_projection_dim=40,
                axes_dims_rope=[4, 6, 6],
            ),
        ),
        ("flux.model:Flux", _flux(vec_in_dim=None, guidance_embed=False, txt_ids_dims=[1, 2])),
    ),
    "chroma": (  # ComfyUI makes the modulations of 19 + 38 blocks, whatever the depth
        (
            "ChromaTransformer2DModel",
            dict(
                in_channels=16,
                num_layers=19,
                num_single_layers=38,
                attention_head_dim=16,
                num_attention_heads=3,
                joint_attention_dim=40,
                axes_dims_rope=(4, 6, 6),
                approximator_num_channels=64,
                approximator_hidden_dim=56,
                approximator_layers=2,
            ),
        ),
        (
            "chroma.model:Chroma",
            dict(
                in_channels=16,
                out_channels=16,
                context_in_dim=40,
                hidden_size=48,
                mlp_ratio=4.0,
                num_heads=3,
                depth=19,
                depth_single_blocks=38,
                axes_dim=[4, 6, 6],
                theta=10000,
                patch_size=2,
                qkv_bias=True,
                in_dim=64,
                out_dim=48,
                hidden_dim=56,
                n_layers=2,
                txt_ids_dims=[],
                vec_in_dim=None,
            ),
        ),
    ),
    "ovis_image": (
        (
            "OvisImageTransformer2DModel",
            dict(
                patch_size=1,
                in_channels=16,
                out_channels=16,
                num_layers=2,
                num_single_layers=2,
                attention_head_dim=16,
                num_attention_heads=3,
                joint_attention_dim=40,
                axes_dims_rope=(4, 6, 6),
            ),
        ),
        (
            "flux.model:Flux",
            _flux(vec_in_dim=None, guidance_embed=False, txt_ids_dims=[1, 2], yak_mlp=True, txt_norm=True),
        ),
    ),
}
