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


_UNET_INPUTS = {"x": (1, 4, 16, 24), "t": 400, "context": (1, 9, 40)}
_UNET = {"converter": "convert_ldm_unet_checkpoint", "prefix": "model.diffusion_model."}

RUNS = {
    "sd15": Run(_UNET_INPUTS, _unet, _unet_comfyui, **_UNET),
    "sd2": Run(_UNET_INPUTS, _unet, _unet_comfyui, **_UNET),
    "sdxl": Run(_UNET_INPUTS | {"pooled": (1, 20), "ids": (1, 6)}, _unet, _unet_comfyui, **_UNET),
    "sdxl_refiner": Run(_UNET_INPUTS | {"pooled": (1, 20), "ids": (1, 5)}, _unet, _unet_comfyui, **_UNET),
    "ssd_1b": Run(_UNET_INPUTS | {"pooled": (1, 20), "ids": (1, 6)}, _unet, _unet_comfyui),
    "koala_700m": Run(_UNET_INPUTS | {"pooled": (1, 20), "ids": (1, 6)}, _unet, _unet_comfyui),
    "stable_cascade_c": Run(
        {"x": (1, 5, 8, 12), "t": 0.7, "context": (1, 9, 40), "pooled": (1, 1, 36), "image": (1, 1, 28)},
        _cascade,
        _cascade_comfyui,
    ),
    "stable_cascade_b": Run(
        {"x": (1, 5, 32, 48), "t": 0.7, "pooled": (1, 1, 36), "effnet": (1, 7, 4, 6)}, _cascade, _cascade_comfyui
    ),
}
