"""Wan and its variants."""

from __future__ import annotations

from .build import Row

WAN = dict(
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

TINY: dict[str, Row] = {
    "wan_t2v": (("WanTransformer3DModel", dict(WAN)), ("wan.model:WanModel", _WAN_COMFY | dict(model_type="t2v"))),
    "wan_i2v": (
        ("WanTransformer3DModel", WAN | dict(image_dim=1280, added_kv_proj_dim=48)),
        ("wan.model:WanModel", _WAN_COMFY | dict(model_type="i2v")),
    ),
    "wan_vace": (
        ("WanVACETransformer3DModel", WAN | dict(vace_layers=[0, 1], vace_in_channels=9)),
        ("wan.model:VaceWanModel", _WAN_COMFY | dict(vace_layers=2, vace_in_dim=9)),
    ),
    "wan_animate": (
        ("WanAnimateTransformer3DModel", WAN | dict(num_layers=5, in_channels=36, added_kv_proj_dim=48)),
        ("wan.model_animate:AnimateWanModel", _WAN_COMFY | dict(num_layers=5, in_dim=36)),
    ),
    "wan_camera": (None, ("wan.model:CameraWanModel", dict(_WAN_COMFY))),
    "wan_s2v": (
        None,
        (
            "wan.model:WanModel_S2V",
            _WAN_COMFY | dict(audio_dim=24, num_audio_token=2, cond_dim=5, audio_inject_layers=[0, 1]),
        ),
    ),
    "wan_humo": (None, ("wan.model:HumoWanModel", _WAN_COMFY | dict(audio_token_num=2))),
    "wan_scail": (None, ("wan.model:SCAILWanModel", dict(_WAN_COMFY))),
    "wan_scail2": (None, ("wan.model:SCAIL2WanModel", _WAN_COMFY | dict(mask_in_dim=6))),
    "wan_dancer": (
        None,
        (
            "wan.model_wandancer:WanDancerModel",
            _WAN_COMFY | dict(audio_inject_layers=[0, 1], music_dim=32, music_heads=2, music_latent_dim=32),
        ),
    ),
    "wan_causal": (None, ("wan.ar_model:CausalWanModel", dict(_WAN_COMFY))),
}
