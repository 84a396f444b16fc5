"""Transformers for sound."""

from __future__ import annotations

from typing import Any

from .run import Run


def _ace(model: Any, i: dict[str, Any]) -> Any:
    return model(i["x"], i["t"], i["next"], i["context"], i["latents"], return_dict=False)[0]


def _ace_comfyui(model: Any, i: dict[str, Any]) -> Any:
    return model.decoder(i["x"], i["t"], i["next"], None, i["context"], None, i["latents"])


def _stable_audio(model: Any, i: dict[str, Any]) -> Any:
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    rope = get_1d_rotary_pos_embed(32, i["x"].shape[2] + 1, use_real=True, repeat_interleave_real=False)
    return model(i["x"], i["t"], i["context"], i["y"].unsqueeze(1), rope, return_dict=False)[0]


def _stable_audio_comfyui(model: Any, i: dict[str, Any]) -> Any:
    return model(i["x"], i["t"], context=i["context"], global_embed=i["y"])


def _stable_audio3(model: Any, i: dict[str, Any]) -> Any:
    return model(i["x"], i["t"], i["context"], i["y"], local_add_cond=i["local"], return_dict=False)[0]


def _stable_audio3_comfyui(model: Any, i: dict[str, Any]) -> Any:
    return model(i["x"], i["t"], context=i["context"], global_embed=i["y"], local_add_cond=i["local"])


_GATES = "to_scale_shift_gate"

RUNS = {
    "ace_step15": Run(
        {"x": (1, 10, 6), "t": 0.7, "next": 0.5, "context": (1, 9, 64), "latents": (1, 10, 12)},
        _ace,
        _ace_comfyui,
        extra={"scale_shift_table": "decoder.scale_shift_table"}
        | {f"layers.{n}.scale_shift_table": f"decoder.layers.{n}.scale_shift_table" for n in (0, 1)},
    ),
    "stable_audio": Run(
        {"x": (1, 6, 15), "t": 0.7, "context": (1, 9, 128), "y": (1, 40)},
        _stable_audio,
        _stable_audio_comfyui,
        extra={"time_proj.weight": "timestep_features.weight"},
    ),
    "stable_audio3": Run(
        {"x": (1, 6, 15), "t": 0.7, "context": (1, 9, 40), "y": (1, 24), "local": (1, 5, 15)},
        _stable_audio3,
        _stable_audio3_comfyui,
        extra={
            "memory_tokens": "transformer.memory_tokens",
            "rotary_pos_emb.inv_freq": "transformer.rotary_pos_emb.inv_freq",
        }
        | {f"transformer_blocks.{n}.{_GATES}": f"transformer.layers.{n}.{_GATES}" for n in (0, 1)},
    ),
}
