"""Image transformers that only diffusers has; trainers and pipelines use its names."""

from __future__ import annotations

from .build import Row

_BRIA = dict(
    in_channels=16,
    num_layers=2,
    num_single_layers=2,
    attention_head_dim=16,
    num_attention_heads=3,
    joint_attention_dim=40,
    axes_dims_rope=[4, 6, 6],
)

_COGVIEW = dict(
    in_channels=5,
    out_channels=5,
    num_layers=2,
    attention_head_dim=16,
    num_attention_heads=3,
    text_embed_dim=40,
    time_embed_dim=32,
    condition_dim=8,
)

TINY: dict[str, Row] = {
    "bria": (("BriaTransformer2DModel", dict(_BRIA)), None),
    "bria_fibo": (("BriaFiboTransformer2DModel", _BRIA | dict(text_encoder_dim=24)), None),
    "bria_fibo2": (
        (
            "BriaFibo2Transformer2DModel",
            dict(
                in_channels=5,
                dim=1024,
                n_layers=3,
                n_refiner_layers=1,
                n_heads=64,
                cap_feat_dim=40,
                injection_layer_ids=(1,),
                perceiver_num_layers=1,
                axes_dims=(4, 6, 6),
                axes_lens=(64, 32, 32),
            ),
        ),
        None,
    ),
    "cogview3": (("CogView3PlusTransformer2DModel", _COGVIEW | dict(sample_size=16, pos_embed_max_size=16)), None),
    "cogview4": (("CogView4Transformer2DModel", _COGVIEW | dict(sample_size=16, rope_axes_dim=(16, 16))), None),
    "dit": (
        (
            "DiTTransformer2DModel",
            dict(num_attention_heads=3, attention_head_dim=16, num_layers=2, sample_size=16, num_embeds_ada_norm=9),
        ),
        None,
    ),
    "flux3": (
        (
            "Flux3Transformer2DModel",
            dict(
                in_channels=20,
                cond_in_channels=24,
                num_layers=2,
                num_single_layers=2,
                attention_head_dim=16,
                num_attention_heads=3,
                joint_attention_dim=40,
                timestep_channels=32,
                axes_dims_rope=(4, 4, 4, 4),
            ),
        ),
        None,
    ),
    "glm_image": (("GlmImageTransformer2DModel", _COGVIEW | dict(prior_vq_quantizer_codebook_size=64)), None),
    "joyimage_plus": (
        (
            "JoyImageEditPlusTransformer3DModel",
            dict(
                in_channels=5,
                hidden_size=48,
                num_attention_heads=3,
                text_dim=40,
                num_layers=2,
                rope_dim_list=[4, 6, 6],
            ),
        ),
        None,
    ),
    "kandinsky2_prior": (
        (
            "PriorTransformer",
            dict(num_attention_heads=3, attention_head_dim=16, num_layers=2, embedding_dim=24, num_embeddings=5),
        ),
        None,
    ),
    "lumina_next": (
        (
            "LuminaNextDiT2DModel",
            dict(
                sample_size=16,
                hidden_size=96,
                num_layers=2,
                num_attention_heads=6,
                num_kv_heads=2,
                multiple_of=8,
                cross_attention_dim=40,
            ),
        ),
        None,
    ),
    "nucleus_image": (
        (
            "NucleusMoEImageTransformer2DModel",
            dict(
                in_channels=20,
                out_channels=5,
                num_layers=5,
                attention_head_dim=16,
                num_attention_heads=4,
                num_key_value_heads=2,
                joint_attention_dim=40,
                axes_dims_rope=(4, 6, 6),
                num_experts=2,
                moe_intermediate_dim=24,
            ),
        ),
        None,
    ),
    "omnigen": (
        (
            "OmniGenTransformer2DModel",
            dict(
                hidden_size=48,
                num_attention_heads=3,
                num_key_value_heads=3,
                intermediate_size=80,
                num_layers=2,
                pad_token_id=0,
                vocab_size=99,
                pos_embed_max_size=16,
                time_step_dim=32,
                rope_scaling=dict(short_factor=[1.0] * 8, long_factor=[1.0] * 8),
            ),
        ),
        None,
    ),
    "prx": (
        (
            "PRXTransformer2DModel",
            dict(
                in_channels=5,
                context_in_dim=40,
                hidden_size=48,
                num_heads=3,
                depth=2,
                axes_dim=[8, 8],
                bottleneck_size=24,
                resolution_embeds=True,
            ),
        ),
        None,
    ),
    "qwen_image21": (
        (
            "QwenImage21Transformer2DModel",
            dict(
                in_channels=20,
                out_channels=20,
                num_layers=2,
                attention_head_dim=16,
                num_attention_heads=3,
                context_in_dim=40,
                axes_dims_rope=(4, 6, 6),
            ),
        ),
        None,
    ),
}
