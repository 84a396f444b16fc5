"""Stable Diffusion's UNets and Stable Cascade."""

from __future__ import annotations

from typing import Any

from .run import Run


def _unet(model: Any, i: dict[str, Any]) -> Any:
    added = {"text_embeds": i["pooled"], "time_ids": i["ids"]} if "ids" in i else None
    return model(i["x"], i["t"], i["context"], added_cond_kwargs=added, return_dict=False)[0]


def _unet_comfyui(model: Any, i: dict[str, Any]) -> Any:
    import torch
    from comfy.ldm.modules.diffusionmodules.util import timestep_embedding

    y = torch.cat([i["pooled"], timestep_embedding(i["ids"].flatten(), 8).reshape(1, -1)], 1) if "ids" in i else None
    return model(i["x"], i["t"], i["context"], y=y)


def _svd(model: Any, i: dict[str, Any]) -> Any:
    return model(i["x"][None], i["t"], i["context"], added_time_ids=i["ids"], return_dict=False)[0][0]


def _svd_comfyui(model: Any, i: dict[str, Any]) -> Any:
    import torch
    from comfy.ldm.modules.diffusionmodules.util import timestep_embedding

    frames = len(i["x"])
    y = timestep_embedding(i["ids"].flatten(), 8).reshape(1, -1).repeat(frames, 1)
    context = i["context"].repeat(frames, 1, 1)
    return model(
        i["x"],
        i["t"].repeat(frames),
        context,
        y=y,
        num_video_frames=frames,
        image_only_indicator=torch.zeros(1, frames),
    )


def _cascade(model: Any, i: dict[str, Any]) -> Any:
    return model(
        i["x"],
        i["t"],
        i["pooled"],
        clip_text=i.get("context"),
        clip_img=i.get("image"),
        effnet=i.get("effnet"),
        return_dict=False,
    )[0]


def _cascade_comfyui(model: Any, i: dict[str, Any]) -> Any:
    if "effnet" in i:
        return model(i["x"], i["t"], i["effnet"], i["pooled"])
    return model(i["x"], i["t"], i["context"], i["pooled"], i["image"])


# Where a block mixes space and time: a bare parameter.
_SVD_MIXERS = (
    "down_blocks.0.resnets.0=input_blocks.1.0 down_blocks.0.resnets.1=input_blocks.2.0",
    "down_blocks.1.resnets.0=input_blocks.4.0 down_blocks.1.resnets.1=input_blocks.5.0",
    "down_blocks.0.attentions.0=input_blocks.1.1 down_blocks.0.attentions.1=input_blocks.2.1",
    "mid_block.resnets.0=middle_block.0 mid_block.attentions.0=middle_block.1 mid_block.resnets.1=middle_block.2",
    *(f"up_blocks.{i // 3}.resnets.{i % 3}=output_blocks.{i}.0" for i in range(6)),
    *(f"up_blocks.1.attentions.{i}=output_blocks.{3 + i}.1" for i in range(3)),
)
_SVD_EXTRA = {
    f"{theirs}.time_mixer.mix_factor": f"{ours}.time_mixer.mix_factor"
    for theirs, ours in (pair.split("=") for row in _SVD_MIXERS for pair in row.split())
}

_UNET_INPUTS = {"x": (1, 4, 16, 24), "t": 400, "context": (1, 9, 40)}
_UNET = {"converter": "convert_ldm_unet_checkpoint", "prefix": "model.diffusion_model."}

RUNS = {
    "sd15": Run(_UNET_INPUTS, _unet, _unet_comfyui, **_UNET),
    "sd2": Run(_UNET_INPUTS, _unet, _unet_comfyui, **_UNET),
    "sdxl": Run(_UNET_INPUTS | {"pooled": (1, 20), "ids": (1, 6)}, _unet, _unet_comfyui, **_UNET),
    "sdxl_refiner": Run(_UNET_INPUTS | {"pooled": (1, 20), "ids": (1, 5)}, _unet, _unet_comfyui, **_UNET),
    "ssd_1b": Run(_UNET_INPUTS | {"pooled": (1, 20), "ids": (1, 6)}, _unet, _unet_comfyui),
    "koala_700m": Run(_UNET_INPUTS | {"pooled": (1, 20), "ids": (1, 6)}, _unet, _unet_comfyui),
    "svd": Run(
        {"x": (3, 8, 8, 12), "t": 400, "context": (1, 1, 40), "ids": (1, 3)}, _svd, _svd_comfyui, extra=_SVD_EXTRA
    ),
    "stable_cascade_c": Run(
        {"x": (1, 5, 8, 12), "t": 0.7, "context": (1, 9, 40), "pooled": (1, 1, 36), "image": (1, 1, 28)},
        _cascade,
        _cascade_comfyui,
    ),
    "stable_cascade_b": Run(
        {"x": (1, 5, 32, 48), "t": 0.7, "pooled": (1, 1, 36), "effnet": (1, 7, 4, 6)}, _cascade, _cascade_comfyui
    ),
}
