"""Flux, what descends from it, and Qwen-Image: image tokens of two by two latents."""

from __future__ import annotations

from typing import Any

from .run import Run, ids, pack, plain_comfyui, unpack


def _flux(model: Any, i: dict[str, Any]) -> Any:
    import torch

    h, w = i["x"].shape[-2:]
    more = {"pooled_projections": i["y"]} if "y" in i else {}
    if "guidance" in i:
        more["guidance"] = i["guidance"]
    out = model(
        hidden_states=pack(i["x"]),
        encoder_hidden_states=i["context"],
        timestep=i["t"],
        img_ids=ids(h // 2, w // 2),
        txt_ids=torch.zeros(i["context"].shape[1], 3),
        return_dict=False,
        **more,
    )
    return unpack(out[0], h, w)


def _longcat(model: Any, i: dict[str, Any]) -> Any:
    import torch

    h, w = i["x"].shape[-2:]
    text = torch.arange(i["context"].shape[1])[:, None] * torch.tensor([0, 1, 1])
    out = model(
        hidden_states=pack(i["x"]),
        encoder_hidden_states=i["context"],
        timestep=i["t"],
        img_ids=ids(h // 2, w // 2),
        txt_ids=text.float(),
        return_dict=False,
    )
    return unpack(out[0], h, w)


def _ovis(model: Any, i: dict[str, Any]) -> Any:
    import torch

    h, w = i["x"].shape[-2:]
    text = torch.arange(i["context"].shape[1])[:, None] * torch.tensor([0, 1, 1])
    out = model(
        pack(i["x"]), i["context"], i["t"], img_ids=ids(h // 2, w // 2), txt_ids=text.float(), return_dict=False
    )
    return unpack(out[0], h, w)


def _flux2(model: Any, i: dict[str, Any]) -> Any:
    import torch

    h, w = i["x"].shape[-2:]
    text = torch.zeros(i["context"].shape[1], 4)
    text[:, 3] = torch.arange(len(text))
    out = model(
        hidden_states=pack(i["x"], 1),
        encoder_hidden_states=i["context"],
        timestep=i["t"],
        img_ids=ids(h, w, 4),
        txt_ids=text,
        guidance=i.get("guidance"),
        return_dict=False,
    )
    return unpack(out[0], h, w, 1)


def _flux_comfyui(model: Any, i: dict[str, Any]) -> Any:
    return model(i["x"], i["t"], i["context"], y=i.get("y"), guidance=i.get("guidance"))


def _chroma_comfyui(model: Any, i: dict[str, Any]) -> Any:
    return model(i["x"], i["t"], i["context"], i["t"] * 0)


def _qwen(model: Any, i: dict[str, Any]) -> Any:
    import torch

    h, w = i["x"].shape[-2:]
    out = model(
        pack(i["x"][:, :, 0]),
        i["context"],
        torch.ones(i["context"].shape[:2]),
        i["t"],
        img_shapes=[[(1, h // 2, w // 2)]],
        return_dict=False,
    )[0]
    return unpack(out, h, w).unsqueeze(2)


_IMAGE = {"x": (1, 4, 12, 16), "t": 0.7, "context": (1, 9, 40)}

RUNS = {
    "flux": Run(_IMAGE | {"y": (1, 24), "guidance": 3.5}, _flux, _flux_comfyui),
    "flux2": Run(
        _IMAGE | {"x": (1, 20, 6, 8), "guidance": 3.5},
        _flux2,
        _flux_comfyui,
        "convert_flux2_transformer_checkpoint_to_diffusers",
    ),
    "flux2_klein": Run(
        _IMAGE | {"x": (1, 20, 6, 8)}, _flux2, _flux_comfyui, "convert_flux2_transformer_checkpoint_to_diffusers"
    ),
    "ovis_image": Run(_IMAGE, _ovis, _flux_comfyui),
    "longcat_image": Run(_IMAGE, _longcat, _flux_comfyui),
    "chroma": Run(_IMAGE, _flux, _chroma_comfyui),
    "qwen_image": Run({"x": (1, 5, 1, 12, 16), "t": 0.7, "context": (1, 9, 40)}, _qwen, plain_comfyui),
}
