"""Lumina 2 and what is built like it."""

from __future__ import annotations

from .build import Row

TINY: dict[str, Row] = {
    "lumina2": (
        (
            "Lumina2Transformer2DModel",
            dict(
                sample_size=16,
                in_channels=5,
                hidden_size=96,
                num_layers=2,
                num_refiner_layers=1,
                num_attention_heads=6,
                num_kv_heads=2,
                multiple_of=8,
                axes_dim_rope=(4, 6, 6),
                axes_lens=(30, 32, 32),
                cap_feat_dim=40,
            ),
        ),
        (
            "lumina.model:NextDiT",
            dict(
                in_channels=5,
                dim=96,
                n_layers=2,
                n_refiner_layers=1,
                n_heads=6,
                n_kv_heads=2,
                cap_feat_dim=40,
                axes_dims=[4, 6, 6],
                axes_lens=[30, 32, 32],
                qk_norm=True,
                ffn_dim_multiplier=4.0,
                multiple_of=8,
            ),
        ),
    ),
    "z_image": (
        (
            "ZImageTransformer2DModel",
            dict(
                in_channels=5,
                dim=1024,
                n_layers=2,
                n_refiner_layers=1,
                n_heads=64,
                n_kv_heads=64,
                cap_feat_dim=40,
                axes_dims=[4, 6, 6],
                axes_lens=[64, 32, 32],
            ),
        ),
        (
            "lumina.model:NextDiT",
            dict(
                in_channels=5,
                dim=1024,
                n_layers=2,
                n_refiner_layers=1,
                n_heads=64,
                n_kv_heads=64,
                cap_feat_dim=40,
                axes_dims=[4, 6, 6],
                axes_lens=[64, 32, 32],
                qk_norm=True,
                rope_theta=256.0,
                ffn_dim_multiplier=8 / 3,
                multiple_of=1,
                z_image_modulation=True,
                time_scale=1000.0,
                pad_tokens_multiple=32,
            ),
        ),
    ),
    "ideogram4": (
        (
            "Ideogram4Transformer2DModel",
            dict(
                in_channels=20,
                num_layers=2,
                attention_head_dim=16,
                num_attention_heads=3,
                intermediate_size=80,
                adaln_dim=24,
                llm_features_dim=40,
                mrope_section=(4, 2, 2),
            ),
        ),
        (
            "ideogram4.model:Ideogram4Transformer2DModel",
            dict(
                in_channels=20,
                num_layers=2,
                attention_head_dim=16,
                num_attention_heads=3,
                intermediate_size=80,
                adaln_dim=24,
                llm_features_dim=40,
                mrope_section=(4, 2, 2),
            ),
        ),
    ),
    "omnigen2": (
        None,
        (
            "omnigen.omnigen2:OmniGen2Transformer2DModel",
            dict(
                in_channels=5,
                hidden_size=96,
                num_layers=2,
                num_refiner_layers=1,
                num_attention_heads=6,
                num_kv_heads=2,
                multiple_of=8,
                axes_dim_rope=(4, 6, 6),
                axes_lens=(30, 32, 32),
                text_feat_dim=40,
            ),
        ),
    ),
    "boogu_image": (
        None,
        (
            "boogu.model:BooguTransformer2DModel",
            dict(
                in_channels=5,
                hidden_size=96,
                num_layers=2,
                num_double_stream_layers=2,
                num_refiner_layers=1,
                num_attention_heads=6,
                num_kv_heads=2,
                multiple_of=8,
                axes_dim_rope=(4, 6, 6),
                axes_lens=(30, 32, 32),
                instruction_feat_dim=40,
            ),
        ),
    ),
}
