"""Models that paint pixels instead of latents."""

from __future__ import annotations

from .build import Row

_PIXELDIT = dict(
    num_groups=3,
    hidden_size=48,
    pixel_hidden_size=8,
    pixel_attn_hidden_size=64,
    pixel_num_groups=4,
    patch_depth=2,
    pixel_depth=1,
    patch_size=4,
    txt_embed_dim=40,
    txt_max_length=9,
)

TINY: dict[str, Row] = {
    "pixeldit": (None, ("pixeldit.model:PixDiT_T2I", dict(_PIXELDIT))),
    "pid": (
        None,
        ("pixeldit.pid:PidNet", _PIXELDIT | dict(lq_latent_channels=5, lq_hidden_dim=24, lq_num_res_blocks=1)),
    ),
    "chroma_radiance": (
        None,
        (
            "chroma_radiance.model:ChromaRadiance",
            dict(
                in_channels=3,
                out_channels=3,
                context_in_dim=40,
                hidden_size=48,
                mlp_ratio=4.0,
                num_heads=3,
                depth=2,
                depth_single_blocks=2,
                axes_dim=[4, 6, 6],
                theta=10000,
                patch_size=4,
                qkv_bias=True,
                in_dim=64,
                out_dim=48,
                hidden_dim=56,
                n_layers=2,
                txt_ids_dims=[],
                vec_in_dim=None,
                nerf_hidden_size=24,
                nerf_mlp_ratio=4,
                nerf_depth=2,
                nerf_max_freqs=4,
                nerf_tile_size=0,
                nerf_final_head_type="conv",
                nerf_embedder_dtype=None,
                use_x0=False,
                use_sequential_txt_ids=False,
            ),
        ),
    ),
    "z_image_pixel": (
        None,
        (
            "lumina.model:NextDiTPixelSpace",
            dict(
                patch_size=4,
                in_channels=3,
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
                decoder_hidden_size=40,
                decoder_num_res_blocks=2,
                decoder_max_freqs=4,
            ),
        ),
    ),
}
