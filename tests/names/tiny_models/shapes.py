"""Models that make three-dimensional shapes, and one that restores video."""

from __future__ import annotations

from .build import Row

_SEEDVR2 = dict(
    norm_eps=1e-5,
    num_layers=4,
    vid_in_channels=5,
    vid_out_channels=5,
    vid_dim=48,
    txt_in_dim=40,
    heads=3,
    head_dim=16,
    mm_layers=2,
    rope_dim=16,
)

TINY: dict[str, Row] = {
    "hunyuan3d": (
        None,
        (
            "hunyuan3d.model:Hunyuan3Dv2",
            dict(in_channels=5, context_in_dim=40, hidden_size=48, num_heads=3, depth=2, depth_single_blocks=2),
        ),
    ),
    "hunyuan3d_21": (
        None,
        (
            "hunyuan3dv2_1.hunyuandit:HunYuanDiTPlain",
            dict(
                in_channels=5,
                hidden_size=48,
                context_dim=40,
                depth=4,
                num_heads=3,
                num_moe_layers=2,
                guidance_cond_proj_dim=None,
                num_experts=2,
            ),
        ),
    ),
    "triposplat": (
        None,
        (
            "triposplat.model:LatentSeqMMFlowModel",
            dict(
                q_token_length=8,
                model_channels=48,
                cond_channels=40,
                num_blocks=2,
                num_refiner_blocks=1,
                num_head_channels=24,
                cond2_channels=20,
            ),
        ),
    ),
    "seedvr2": (None, ("seedvr.model:NaDiT", _SEEDVR2 | dict(mlp_type="swiglu", vid_out_norm=True))),
    "seedvr2_7b": (None, ("seedvr.model:NaDiT", _SEEDVR2 | dict(mlp_type="normal", mm_layers=4, rope_type="rope3d"))),
}
