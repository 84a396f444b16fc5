"""Tiny models of every architecture, the same size in diffusers and in ComfyUI: what to build, as data.

Each row of `TINY` is (diffusers class, its arguments), (ComfyUI's class below `comfy.ldm`, its arguments). Sizes are
chosen so that layers of different kinds differ in shape wherever an architecture lets them, which makes a wrong
mapping show as a wrong shape.
"""

# ruff: noqa: C408  arguments are written as in the call they are for

from __future__ import annotations

from importlib import import_module
from typing import Any

Build = tuple[str, dict[str, Any]]

# 64 channels: with 32, a group of the 32 group norms is one channel, which hides the time embedding.
_SD = dict(sample_size=16, in_channels=4, out_channels=4, layers_per_block=2)
_LDM = dict(
    image_size=16,
    in_channels=4,
    out_channels=4,
    model_channels=64,
    num_heads=-1,
    use_spatial_transformer=True,
    legacy=False,
)


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


_WAN = dict(
    num_attention_heads=3,
    attention_head_dim=16,
    in_channels=5,
    out_channels=7,
    text_dim=40,
    freq_dim=32,
    ffn_dim=80,
    num_layers=2,
)
_WAN_COMFY = dict(in_dim=5, out_dim=7, dim=48, ffn_dim=80, freq_dim=32, text_dim=40, num_heads=3, num_layers=2)

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

TINY: dict[str, tuple[Build, Build]] = {
    "sd15": (
        (
            "UNet2DConditionModel",
            _SD | dict(block_out_channels=(64, 128, 192, 192), cross_attention_dim=40, attention_head_dim=2),
        ),
        (
            "modules.diffusionmodules.openaimodel:UNetModel",
            _LDM
            | dict(
                num_heads=2,
                num_res_blocks=[2] * 4,
                channel_mult=[1, 2, 3, 3],
                context_dim=40,
                transformer_depth=[1] * 6 + [0] * 2,
                transformer_depth_output=[1] * 9 + [0] * 3,
                transformer_depth_middle=1,
                use_linear_in_transformer=False,
            ),
        ),
    ),
    "sd2": (
        (
            "UNet2DConditionModel",
            _SD
            | dict(
                block_out_channels=(64, 128, 192, 192),
                cross_attention_dim=40,
                attention_head_dim=(4, 8, 12, 12),
                use_linear_projection=True,
            ),
        ),
        (
            "modules.diffusionmodules.openaimodel:UNetModel",
            _LDM
            | dict(
                num_head_channels=16,
                num_res_blocks=[2] * 4,
                channel_mult=[1, 2, 3, 3],
                context_dim=40,
                transformer_depth=[1] * 6 + [0] * 2,
                transformer_depth_output=[1] * 9 + [0] * 3,
                transformer_depth_middle=1,
                use_linear_in_transformer=True,
            ),
        ),
    ),
    "sdxl": (
        (
            "UNet2DConditionModel",
            _SD
            | dict(
                block_out_channels=(64, 128, 192),
                cross_attention_dim=40,
                attention_head_dim=(4, 8, 12),
                use_linear_projection=True,
                transformer_layers_per_block=(1, 2, 3),
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=8 * 6 + 20,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            ),
        ),
        (
            "modules.diffusionmodules.openaimodel:UNetModel",
            _LDM
            | dict(
                num_head_channels=16,
                num_res_blocks=[2] * 3,
                channel_mult=[1, 2, 3],
                context_dim=40,
                adm_in_channels=68,
                num_classes="sequential",
                transformer_depth=[0, 0, 2, 2, 3, 3],
                transformer_depth_middle=3,
                transformer_depth_output=[0, 0, 0, 2, 2, 2, 3, 3, 3],
                use_linear_in_transformer=True,
            ),
        ),
    ),
    "sdxl_refiner": (
        (
            "UNet2DConditionModel",
            _SD
            | dict(
                block_out_channels=(64, 128, 192, 192),
                cross_attention_dim=40,
                attention_head_dim=(4, 8, 12, 12),
                use_linear_projection=True,
                transformer_layers_per_block=2,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=8 * 5 + 20,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            ),
        ),
        (
            "modules.diffusionmodules.openaimodel:UNetModel",
            _LDM
            | dict(
                num_head_channels=16,
                num_res_blocks=[2] * 4,
                channel_mult=[1, 2, 3, 3],
                context_dim=40,
                adm_in_channels=60,
                num_classes="sequential",
                transformer_depth=[0, 0, 2, 2, 2, 2, 0, 0],
                transformer_depth_middle=2,
                transformer_depth_output=[0, 0, 0, 2, 2, 2, 2, 2, 2, 0, 0, 0],
                use_linear_in_transformer=True,
            ),
        ),
    ),
    "ssd_1b": (  # SDXL distilled: blocks of uneven depth, a middle without attention
        (
            "UNet2DConditionModel",
            _SD
            | dict(
                block_out_channels=(64, 128, 192),
                cross_attention_dim=40,
                attention_head_dim=(4, 8, 12),
                use_linear_projection=True,
                mid_block_type="UNetMidBlock2D",
                transformer_layers_per_block=[[1, 1], [2, 2], [4, 4]],
                reverse_transformer_layers_per_block=[[4, 4, 5], [2, 1, 1], [1, 1, 1]],
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=8 * 6 + 20,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            ),
        ),
        (
            "modules.diffusionmodules.openaimodel:UNetModel",
            _LDM
            | dict(
                num_head_channels=16,
                num_res_blocks=[2] * 3,
                channel_mult=[1, 2, 3],
                context_dim=40,
                adm_in_channels=68,
                num_classes="sequential",
                transformer_depth=[0, 0, 2, 2, 4, 4],
                transformer_depth_middle=-1,
                transformer_depth_output=[0, 0, 0, 1, 1, 2, 5, 4, 4],
                use_linear_in_transformer=True,
            ),
        ),
    ),
    "koala_700m": (  # SDXL distilled: one residual block a level, no middle
        (
            "UNet2DConditionModel",
            _SD
            | dict(
                layers_per_block=1,
                block_out_channels=(64, 128, 192),
                cross_attention_dim=40,
                attention_head_dim=(4, 8, 12),
                use_linear_projection=True,
                mid_block_type=None,
                transformer_layers_per_block=(1, 2, 3),
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=8 * 6 + 20,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            ),
        ),
        (
            "modules.diffusionmodules.openaimodel:UNetModel",
            _LDM
            | dict(
                num_head_channels=16,
                num_res_blocks=[1] * 3,
                channel_mult=[1, 2, 3],
                context_dim=40,
                adm_in_channels=68,
                num_classes="sequential",
                transformer_depth=[0, 2, 3],
                transformer_depth_middle=-2,
                transformer_depth_output=[0, 0, 2, 2, 3, 3],
                use_linear_in_transformer=True,
            ),
        ),
    ),
    "sd3": (
        (
            "SD3Transformer2DModel",
            dict(
                sample_size=16,
                in_channels=5,
                out_channels=5,
                num_layers=3,
                attention_head_dim=64,
                num_attention_heads=3,
                joint_attention_dim=40,
                caption_projection_dim=192,
                pooled_projection_dim=24,
                pos_embed_max_size=12,
            ),
        ),
        (
            "modules.diffusionmodules.mmdit:MMDiT",
            dict(
                input_size=None,
                in_channels=5,
                out_channels=5,
                depth=3,
                adm_in_channels=24,
                num_patches=144,
                pos_embed_max_size=12,
                context_embedder_config=dict(target="torch.nn.Linear", params=dict(in_features=40, out_features=192)),
            ),
        ),
    ),
    "sd35": (
        (
            "SD3Transformer2DModel",
            dict(
                sample_size=16,
                in_channels=5,
                out_channels=5,
                num_layers=3,
                attention_head_dim=64,
                num_attention_heads=3,
                joint_attention_dim=40,
                caption_projection_dim=192,
                pooled_projection_dim=24,
                pos_embed_max_size=12,
                dual_attention_layers=(0, 1),
                qk_norm="rms_norm",
            ),
        ),
        (
            "modules.diffusionmodules.mmdit:MMDiT",
            dict(
                input_size=None,
                in_channels=5,
                out_channels=5,
                depth=3,
                adm_in_channels=24,
                num_patches=144,
                pos_embed_max_size=12,
                qk_norm="rms",
                x_block_self_attn_layers=[0, 1],
                context_embedder_config=dict(target="torch.nn.Linear", params=dict(in_features=40, out_features=192)),
            ),
        ),
    ),
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
    "wan_t2v": (("WanTransformer3DModel", dict(_WAN)), ("wan.model:WanModel", _WAN_COMFY | dict(model_type="t2v"))),
    "wan_i2v": (
        ("WanTransformer3DModel", _WAN | dict(image_dim=1280, added_kv_proj_dim=48)),
        ("wan.model:WanModel", _WAN_COMFY | dict(model_type="i2v")),
    ),
    "wan_vace": (
        ("WanVACETransformer3DModel", _WAN | dict(vace_layers=[0, 1], vace_in_channels=9)),
        ("wan.model:VaceWanModel", _WAN_COMFY | dict(vace_layers=2, vace_in_dim=9)),
    ),
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
    "ltx2": (
        (
            "LTX2VideoTransformer3DModel",
            dict(
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
            ),
        ),
        (
            "lightricks.av_model:LTXAVModel",
            dict(
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
            ),
        ),
    ),
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
    "auraflow": (
        (
            "AuraFlowTransformer2DModel",
            dict(
                sample_size=16,
                in_channels=5,
                out_channels=5,
                num_mmdit_layers=2,
                num_single_dit_layers=2,
                attention_head_dim=16,
                num_attention_heads=3,
                joint_attention_dim=40,
                caption_projection_dim=48,
                pos_embed_max_size=144,
            ),
        ),
        (
            "aura.mmdit:MMDiT",
            dict(
                in_channels=5,
                out_channels=5,
                dim=48,
                n_layers=4,
                n_double_layers=2,
                n_heads=3,
                global_conddim=48,
                cond_seq_dim=40,
                max_seq=144,
            ),
        ),
    ),
    "pixart_sigma": (
        (
            "PixArtTransformer2DModel",
            dict(
                num_attention_heads=3,
                attention_head_dim=16,
                in_channels=5,
                out_channels=10,
                num_layers=2,
                cross_attention_dim=48,
                sample_size=64,
                caption_channels=40,
                use_additional_conditions=False,
            ),
        ),
        (
            "pixart.pixartms:PixArtMS",
            dict(
                input_size=64,
                in_channels=5,
                hidden_size=48,
                depth=2,
                num_heads=3,
                caption_channels=40,
                pe_interpolation=1,
                model_max_length=9,
                micro_condition=False,
            ),
        ),
    ),
    "pixart_alpha": (
        (
            "PixArtTransformer2DModel",
            dict(
                num_attention_heads=3,
                attention_head_dim=16,
                in_channels=5,
                out_channels=10,
                num_layers=2,
                cross_attention_dim=48,
                sample_size=64,
                caption_channels=40,
                use_additional_conditions=True,
            ),
        ),
        (
            "pixart.pixartms:PixArtMS",
            dict(
                input_size=64,
                in_channels=5,
                hidden_size=48,
                depth=2,
                num_heads=3,
                caption_channels=40,
                pe_interpolation=1,
                model_max_length=9,
                micro_condition=True,
            ),
        ),
    ),
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
    "cosmos_predict2": (
        ("CosmosTransformer3DModel", dict(_COSMOS)),
        ("cosmos.predict2:MiniTrainDIT", dict(_COSMOS_COMFY)),
    ),
    "anima": (("CosmosTransformer3DModel", dict(_COSMOS)), ("anima.model:Anima", dict(_COSMOS_COMFY))),
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
    "ace_step15": (
        (
            "AceStepTransformer1DModel",
            dict(
                hidden_size=48,
                intermediate_size=80,
                num_hidden_layers=2,
                num_attention_heads=6,
                num_key_value_heads=2,
                head_dim=16,
                in_channels=18,
                audio_acoustic_hidden_dim=6,
                encoder_hidden_size=64,
            ),
        ),
        (
            "ace.ace_step15:AceStepConditionGenerationModel",
            dict(
                in_channels=18,
                hidden_size=48,
                text_hidden_dim=40,
                timbre_hidden_dim=6,
                audio_acoustic_hidden_dim=6,
                num_dit_layers=2,
                num_lyric_layers=1,
                num_timbre_layers=1,
                num_tokenizer_layers=1,
                num_heads=6,
                num_kv_heads=2,
                head_dim=16,
                intermediate_size=80,
                fsq_dim=48,
                encoder_hidden_size=64,
                encoder_intermediate_size=72,
                encoder_num_heads=4,
            ),
        ),
    ),
    "stable_audio": (
        (
            "StableAudioDiTModel",
            dict(
                sample_size=16,
                in_channels=6,
                out_channels=6,
                num_layers=2,
                attention_head_dim=64,
                num_attention_heads=4,
                num_key_value_attention_heads=2,
                cross_attention_dim=128,
                time_proj_dim=256,
                global_states_input_dim=40,
                cross_attention_input_dim=128,
            ),
        ),
        (
            "audio.dit:AudioDiffusionTransformer",
            dict(
                io_channels=6,
                embed_dim=256,
                cond_token_dim=128,
                project_cond_tokens=False,
                global_cond_dim=40,
                depth=2,
                num_heads=4,
            ),
        ),
    ),
    "stable_cascade_c": (
        (
            "StableCascadeUNet",
            dict(
                in_channels=5,
                out_channels=5,
                timestep_ratio_embedding_dim=16,
                conditioning_dim=48,
                block_out_channels=(48, 64),
                num_attention_heads=(3, 4),
                down_num_layers_per_block=(2, 2),
                up_num_layers_per_block=(2, 2),
                clip_text_in_channels=40,
                clip_text_pooled_in_channels=36,
                clip_image_in_channels=28,
                switch_level=(False,),
            ),
        ),
        (
            "cascade.stage_c:StageC",
            dict(
                c_in=5,
                c_out=5,
                c_r=16,
                c_cond=48,
                c_hidden=[48, 64],
                nhead=[3, 4],
                blocks=[[2, 2], [2, 2]],
                c_clip_text=40,
                c_clip_text_pooled=36,
                c_clip_img=28,
            ),
        ),
    ),
    "stable_cascade_b": (
        (
            "StableCascadeUNet",
            dict(
                in_channels=5,
                out_channels=5,
                timestep_ratio_embedding_dim=16,
                patch_size=2,
                conditioning_dim=48,
                block_out_channels=(32, 48, 64, 64),
                num_attention_heads=(-1, -1, 4, 4),
                down_num_layers_per_block=(1, 2, 2, 1),
                up_num_layers_per_block=(1, 2, 2, 1),
                down_blocks_repeat_mappers=(1, 1, 1, 1),
                up_blocks_repeat_mappers=(3, 3, 2, 2),
                block_types_per_layer=(
                    (("SDCascadeResBlock", "SDCascadeTimestepBlock"),) * 2
                    + (("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),) * 2
                ),
                clip_text_pooled_in_channels=36,
                effnet_in_channels=7,
                pixel_mapper_in_channels=3,
                timestep_conditioning_type=("sca",),
                dropout=(0.0,) * 4,
            ),
        ),
        (
            "cascade.stage_b:StageB",
            dict(
                c_in=5,
                c_out=5,
                c_r=16,
                c_cond=48,
                c_hidden=[32, 48, 64, 64],
                nhead=[-1, -1, 4, 4],
                blocks=[[1, 2, 2, 1], [1, 2, 2, 1]],
                c_clip=36,
                c_effnet=7,
            ),
        ),
    ),
}


def build_diffusers(arch: str, device: str = "cpu") -> Any:
    """The diffusers model of a row of `TINY`, on `device`; needs diffusers."""
    import diffusers
    import torch

    name, kwargs = TINY[arch][0]
    with torch.device(device):
        return getattr(diffusers, name)(**kwargs)


def build_comfyui(arch: str, device: str = "cpu") -> Any:
    """The ComfyUI twin of a row of `TINY`, on `device` in fp32; needs ComfyUI's folder in `sys.path`."""
    import comfy.ops
    import torch

    path, kwargs = TINY[arch][1]
    module, name = path.split(":")
    cls = getattr(import_module(f"comfy.ldm.{module}"), name)
    with torch.device(device):
        return cls(**kwargs, device=device, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
