"""Stable Diffusion's UNets."""

from __future__ import annotations

from .build import Row

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

_SDXL = _SD | dict(
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
)

TINY: dict[str, Row] = {
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
            dict(_SDXL),
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
    "kolors": (  # SDXL with another text encoder, whose states a layer of its own projects
        (
            "UNet2DConditionModel",
            _SDXL | dict(encoder_hid_dim=24, encoder_hid_dim_type="text_proj"),
        ),
        None,
    ),
    "sd_x4": (
        (
            "UNet2DConditionModel",
            _SD
            | dict(
                in_channels=7,
                block_out_channels=(64, 128, 192),
                cross_attention_dim=40,
                attention_head_dim=(4, 8, 12),
                use_linear_projection=True,
                only_cross_attention=(True, True, False),
                num_class_embeds=50,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            ),
        ),
        (
            "modules.diffusionmodules.openaimodel:UNetModel",
            _LDM
            | dict(
                in_channels=7,
                num_head_channels=16,
                num_res_blocks=[2] * 3,
                channel_mult=[1, 2, 3],
                context_dim=40,
                num_classes=50,
                transformer_depth=[0, 0, 1, 1, 1, 1],
                transformer_depth_middle=1,
                transformer_depth_output=[0, 0, 0, 1, 1, 1, 1, 1, 1],
                use_linear_in_transformer=True,
                disable_self_attentions=[True, True, False],
            ),
        ),
    ),
    "svd": (
        (
            "UNetSpatioTemporalConditionModel",
            _SD
            | dict(
                in_channels=8,
                block_out_channels=(64, 128),
                cross_attention_dim=40,
                num_attention_heads=(4, 8),
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=24,
                down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
                up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            ),
        ),
        (
            "modules.diffusionmodules.openaimodel:UNetModel",
            _LDM
            | dict(
                in_channels=8,
                num_head_channels=16,
                num_res_blocks=[2] * 2,
                channel_mult=[1, 2],
                context_dim=40,
                adm_in_channels=24,
                num_classes="sequential",
                transformer_depth=[1, 1, 0, 0],
                transformer_depth_middle=1,
                transformer_depth_output=[1, 1, 1, 0, 0, 0],
                use_linear_in_transformer=True,
                use_spatial_context=True,
                extra_ff_mix_layer=True,
                merge_strategy="learned_with_images",
                merge_factor=0.0,
                video_kernel_size=[3, 1, 1],
                use_temporal_resblock=True,
                use_temporal_attention=True,
            ),
        ),
    ),
}
