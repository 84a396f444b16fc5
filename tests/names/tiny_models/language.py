"""Image transformers that a language model's hidden states condition."""

from __future__ import annotations

from .build import Row

TINY: dict[str, Row] = {
    "qwen_image": (
        (
            "QwenImageTransformer2DModel",
            dict(
                in_channels=20,
                out_channels=5,
                num_layers=2,
                attention_head_dim=16,
                num_attention_heads=3,
                joint_attention_dim=40,
                axes_dims_rope=(4, 6, 6),
            ),
        ),
        (
            "qwen_image.model:QwenImageTransformer2DModel",
            dict(
                in_channels=20,
                out_channels=5,
                num_layers=2,
                attention_head_dim=16,
                num_attention_heads=3,
                joint_attention_dim=40,
                axes_dims_rope=(4, 6, 6),
            ),
        ),
    ),
    "hidream": (
        (
            "HiDreamImageTransformer2DModel",
            dict(
                patch_size=2,
                in_channels=5,
                out_channels=5,
                num_layers=2,
                num_single_layers=2,
                attention_head_dim=16,
                num_attention_heads=3,
                caption_channels=[40, 36],
                text_emb_dim=24,
                num_routed_experts=2,
                num_activated_experts=1,
                axes_dims_rope=(4, 6, 6),
                max_resolution=(16, 16),
                llama_layers=[0, 1, 2, 3],
            ),
        ),
        (
            "hidream.model:HiDreamImageTransformer2DModel",
            dict(
                patch_size=2,
                in_channels=5,
                out_channels=5,
                num_layers=2,
                num_single_layers=2,
                attention_head_dim=16,
                num_attention_heads=3,
                caption_channels=[40, 36],
                text_emb_dim=24,
                num_routed_experts=2,
                num_activated_experts=1,
                axes_dims_rope=(4, 6, 6),
                max_resolution=(16, 16),
                llama_layers=[0, 1, 2, 3],
            ),
        ),
    ),
    "ernie_image": (
        (
            "ErnieImageTransformer2DModel",
            dict(
                hidden_size=48,
                num_attention_heads=3,
                num_layers=2,
                ffn_hidden_size=80,
                in_channels=20,
                out_channels=20,
                text_in_dim=40,
                rope_axes_dim=(4, 6, 6),
            ),
        ),
        (
            "ernie.model:ErnieImageModel",
            dict(
                hidden_size=48,
                num_attention_heads=3,
                num_layers=2,
                ffn_hidden_size=80,
                in_channels=20,
                out_channels=20,
                text_in_dim=40,
                rope_axes_dim=(4, 6, 6),
            ),
        ),
    ),
    "krea2": (
        (
            "Krea2Transformer2DModel",
            dict(
                in_channels=20,
                num_layers=2,
                attention_head_dim=16,
                num_attention_heads=6,
                num_key_value_heads=2,
                intermediate_size=256,
                timestep_embed_dim=32,
                text_hidden_dim=40,
                num_text_layers=3,
                text_num_attention_heads=5,
                text_num_key_value_heads=5,
                text_intermediate_size=128,
                axes_dims_rope=(4, 6, 6),
            ),
        ),
        (
            "krea2.model:SingleStreamDiT",
            dict(
                features=96,
                tdim=32,
                txtdim=40,
                heads=6,
                kvheads=2,
                layers=2,
                channels=5,
                txtlayers=3,
                txtheads=5,
                txtkvheads=5,
            ),
        ),
    ),
    "joyimage": (
        (
            "JoyImageEditTransformer3DModel",
            dict(
                in_channels=5,
                hidden_size=48,
                num_attention_heads=3,
                text_dim=40,
                num_layers=2,
                rope_dim_list=[4, 6, 6],
            ),
        ),
        (
            "joyimage.model:JoyImageTransformer3DModel",
            dict(
                in_channels=5,
                hidden_size=48,
                num_attention_heads=3,
                text_dim=40,
                num_layers=2,
                rope_dim_list=[4, 6, 6],
            ),
        ),
    ),
    "hidream_o1": (
        None,
        (
            "hidream_o1.model:HiDreamO1Transformer",
            dict(
                text_config_overrides=dict(
                    vocab_size=99,
                    hidden_size=48,
                    intermediate_size=80,
                    num_hidden_layers=2,
                    num_attention_heads=3,
                    num_key_value_heads=1,
                    head_dim=16,
                ),
                vision_config_overrides=dict(hidden_size=40, intermediate_size=56, num_heads=2, depth=1),
            ),
        ),
    ),
    "lens": (
        None,
        (
            "lens.model:LensTransformer2DModel",
            dict(
                in_channels=20,
                out_channels=5,
                num_layers=2,
                attention_head_dim=16,
                num_attention_heads=3,
                enc_hidden_dim=40,
                axes_dims_rope=(4, 6, 6),
                selected_layer_index=(0, 1),
            ),
        ),
    ),
}
