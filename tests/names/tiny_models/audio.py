"""ACE-Step and Stable Audio; and Stable Cascade, which stands with them in the tables."""

from __future__ import annotations

from typing import Any

from .build import Row


def _stable_audio3(**kwargs: Any) -> Any:
    """diffusers' Stable Audio 3 without the embedding that stands for padding, which ComfyUI's twin does not hold."""
    from diffusers import StableAudio3DiTModel

    model = StableAudio3DiTModel(**kwargs)
    del model.prompt_padding_embedding
    return model


TINY: dict[str, Row] = {
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
    "ace_step": (
        None,
        (
            "ace.model:ACEStepTransformer2DModel",
            dict(
                num_layers=2,
                attention_head_dim=32,
                num_attention_heads=2,
                mlp_ratio=2.5,
                speaker_embedding_dim=40,
                text_embedding_dim=24,
                lyric_encoder_vocab_size=99,
                ssl_latent_dims=[20, 28],
            ),
        ),
    ),
    "stable_audio3": (
        (
            _stable_audio3,
            dict(
                io_channels=6,
                embed_dim=256,
                depth=2,
                num_heads=4,
                cond_token_dim=40,
                global_cond_dim=24,
                local_add_cond_dim=5,
                num_memory_tokens=3,
            ),
        ),
        (
            "audio.dit:AudioDiffusionTransformer",
            dict(
                io_channels=6,
                embed_dim=256,
                depth=2,
                num_heads=4,
                cond_token_dim=40,
                project_cond_tokens=True,
                global_cond_dim=24,
                global_cond_type="adaLN",
                global_cond_shared_embed=True,
                local_add_cond_dim=5,
                num_memory_tokens=3,
                timestep_features_type="expo",
                norm_type="rms_norm",
                attn_kwargs=dict(qk_norm="rms", differential=True),
            ),
        ),
    ),
}
