"""Video and audio transformers that only diffusers has; trainers and pipelines use its names."""

from __future__ import annotations

from .build import Row
from .hunyuan import TINY as _HUNYUAN
from .video import TINY as _VIDEO
from .wan import WAN

_HEADS = dict(num_attention_heads=3, attention_head_dim=16)
_KANDINSKY6 = dict(time_dim=32, model_dim=48, ff_dim=80, num_visual_blocks=2, axes_dims=(4, 6, 6))

TINY: dict[str, Row] = {
    "allegro": (
        (
            "AllegroTransformer3DModel",
            _HEADS | dict(num_layers=2, cross_attention_dim=48, caption_channels=40, sample_height=8, sample_width=8),
        ),
        None,
    ),
    "anyflow": (("AnyFlowTransformer3DModel", dict(WAN)), None),
    "anyflow_far": (("AnyFlowFARTransformer3DModel", dict(WAN)), None),
    "chronoedit": (("ChronoEditTransformer3DModel", WAN | dict(image_dim=40, added_kv_proj_dim=48)), None),
    "consisid": (
        (
            "ConsisIDTransformer3DModel",
            _HEADS
            | dict(
                in_channels=5,
                out_channels=5,
                time_embed_dim=32,
                text_embed_dim=40,
                num_layers=2,
                sample_width=12,
                sample_height=8,
                sample_frames=9,
                use_rotary_positional_embeddings=True,
                is_train_face=True,
                cross_attn_dim_head=16,
                cross_attn_num_heads=3,
                LFE_id_dim=20,
                LFE_vit_dim=24,
                LFE_depth=5,
                LFE_dim_head=8,
                LFE_num_heads=2,
                LFE_num_querie=4,
                LFE_output_dim=36,
                LFE_num_scale=5,
            ),
        ),
        None,
    ),
    "cosmos3": (
        (
            "Cosmos3OmniTransformer",
            dict(
                head_dim=16,
                hidden_size=48,
                intermediate_size=80,
                latent_channel=5,
                num_attention_heads=3,
                num_hidden_layers=2,
                num_key_value_heads=1,
                patch_latent_dim=20,
                vocab_size=99,
                rope_axes_dim=(4, 2, 2),
            ),
        ),
        None,
    ),
    "easyanimate": (
        (
            "EasyAnimateTransformer3DModel",
            _HEADS
            | dict(
                in_channels=5,
                out_channels=5,
                patch_size=2,
                sample_width=8,
                sample_height=8,
                num_layers=2,
                mmdit_layers=1,
                time_embed_dim=32,
                text_embed_dim=40,
                text_embed_dim_t5=24,
                add_norm_text_encoder=True,
            ),
        ),
        None,
    ),
    "framepack": (
        (
            "HunyuanVideoFramepackTransformer3DModel",
            _HUNYUAN["hunyuan_video"][0][1] | dict(has_image_proj=True, image_proj_dim=24, has_clean_x_embedder=True),
        ),
        None,
    ),
    "helios": (("HeliosTransformer3DModel", WAN | dict(rope_dim=(4, 6, 6))), None),
    "kandinsky6": (
        (
            "Kandinsky6Transformer3DModel",
            _KANDINSKY6
            | dict(
                in_visual_dim=5,
                out_visual_dim=5,
                in_text_dim=40,
                in_text_dim2=24,
                num_text_blocks=1,
                model_dim_a=32,
                time_dim_a=24,
                ff_dim_a=64,
                axes_dims_a=(16,),
            ),
        ),
        None,
    ),
    "kandinsky6_sr": (("Kandinsky6SRTransformer3DModel", _KANDINSKY6 | dict(in_visual_dim=5, out_visual_dim=5)), None),
    "latte": (
        (
            "LatteTransformer3DModel",
            _HEADS
            | dict(
                in_channels=4,
                out_channels=8,
                num_layers=2,
                cross_attention_dim=48,
                sample_size=8,
                patch_size=2,
                num_embeds_ada_norm=9,
                norm_type="ada_norm_single",
                caption_channels=40,
                norm_elementwise_affine=False,
            ),
        ),
        None,
    ),
    "longcat_audio": (
        ("LongCatAudioDiTTransformer", dict(dit_dim=48, dit_depth=2, dit_heads=3, dit_text_dim=40, latent_dim=6)),
        None,
    ),
    "ltx2_refiner": (("SanaWMLTX2RefinerTransformer3DModel", _VIDEO["ltx2"][0][1]), None),
    "minimax_h3": (
        (
            "MiniMaxH3Transformer3DModel",
            _HEADS
            | dict(
                hidden_size=40,
                num_layers=2,
                num_refiner_layers=1,
                ffn_dim=80,
                in_channels=5,
                audio_in_channels=6,
                text_dim=36,
                freq_dim=32,
                time_embed_hidden_dim=40,
                time_embed_dim=20,
                rope_freq_dim=2,
            ),
        ),
        None,
    ),
    "minimax_music3": (
        (
            "MiniMaxMusic3Transformer1DModel",
            _HEADS
            | dict(
                in_channels=8,
                condition_dim=24,
                num_layers=2,
                ff_inner_dim=80,
                rotary_dim=8,
                fourier_embedding_dim=32,
            ),
        ),
        None,
    ),
    "motif_video": (
        (
            "MotifVideoTransformer3DModel",
            _HEADS
            | dict(
                in_channels=5,
                out_channels=5,
                num_layers=2,
                num_single_layers=3,
                num_decoder_layers=1,
                text_embed_dim=40,
                image_embed_dim=24,
                rope_axes_dim=(4, 6, 6),
            ),
        ),
        None,
    ),
    "sana_video": (
        (
            "SanaVideoTransformer3DModel",
            _HEADS
            | dict(
                in_channels=5,
                out_channels=5,
                num_layers=2,
                num_cross_attention_heads=3,
                cross_attention_head_dim=16,
                cross_attention_dim=48,
                caption_channels=40,
                sample_size=8,
            ),
        ),
        None,
    ),
    "sana_wm": (
        (
            "SanaWMTransformer3DModel",
            dict(
                in_channels=8,
                num_layers=4,
                hidden_size=48,
                num_attention_heads=3,
                linear_head_dim=16,
                caption_channels=40,
                chunk_plucker_post_attn_blocks=2,
            ),
        ),
        None,
    ),
    "skyreels_v2": (("SkyReelsV2Transformer3DModel", WAN | dict(inject_sample_info=True)), None),
    "skyreels_v2_i2v": (("SkyReelsV2Transformer3DModel", WAN | dict(image_dim=40, added_kv_proj_dim=48)), None),
    "wan_animate2": (
        (
            "WanAnimate2Transformer3DModel",
            dict(
                in_dim=12,
                dim=48,
                ffn_dim=80,
                freq_dim=32,
                text_dim=40,
                out_dim=4,
                num_heads=3,
                num_layers=2,
                text_len=9,
            ),
        ),
        None,
    ),
}
