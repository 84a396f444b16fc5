"""Transformers for videos."""

from __future__ import annotations

from typing import Any

from .run import Run, plain_comfyui


def _mochi(model: Any, i: dict[str, Any]) -> Any:
    import torch

    mask = torch.ones(i["context"].shape[:2], dtype=torch.bool)
    return -model(i["x"], i["context"], 1000 * (1 - i["t"]), mask, return_dict=False)[0]


def _mochi_comfyui(model: Any, i: dict[str, Any]) -> Any:
    import torch

    return model(i["x"], i["t"], i["context"], torch.ones(i["context"].shape[:2], dtype=torch.bool))


def _wan(model: Any, i: dict[str, Any]) -> Any:
    more = {"control_hidden_states": i["control"]} if "control" in i else {}
    return model(i["x"], i["t"], i["context"], encoder_hidden_states_image=i.get("image"), return_dict=False, **more)[0]


def _wan_comfyui(model: Any, i: dict[str, Any]) -> Any:
    more = {"vace_context": i["control"].unsqueeze(1), "vace_strength": [1.0]} if "control" in i else {}
    return model(i["x"], i["t"], i["context"], clip_fea=i.get("image"), **more)


def _ltx(model: Any, i: dict[str, Any]) -> Any:
    import torch

    b, c, frames, h, w = i["x"].shape
    tokens = i["x"].permute(0, 2, 3, 4, 1).reshape(b, -1, c)
    out = model(
        tokens,
        i["context"],
        i["t"] * 1000,
        torch.ones(i["context"].shape[:2]),
        num_frames=frames,
        height=h,
        width=w,
        rope_interpolation_scale=(8 / 25, 32, 32),
        return_dict=False,
    )[0]
    return out.reshape(b, frames, h, w, c).permute(0, 4, 1, 2, 3)


def _ltx_comfyui(model: Any, i: dict[str, Any]) -> Any:
    return model(i["x"], i["t"], i["context"], None, frame_rate=25)


def _hunyuan(model: Any, i: dict[str, Any]) -> Any:
    import torch

    return model(
        i["x"],
        i["t"],
        i["context"],
        torch.ones(i["context"].shape[:2]),
        i["y"],
        i["guidance"] * 1000,
        return_dict=False,
    )[0]


def _hunyuan_comfyui(model: Any, i: dict[str, Any]) -> Any:
    return model(i["x"], i["t"], i["context"], y=i.get("y"), guidance=i.get("guidance"))


def _hunyuan15(model: Any, i: dict[str, Any]) -> Any:
    import torch

    masks = [torch.ones(i[name].shape[:2]) for name in ("context", "glyphs")]
    return model(
        i["x"],
        i["t"],
        i["context"],
        masks[0],
        encoder_hidden_states_2=i["glyphs"],
        encoder_attention_mask_2=masks[1],
        image_embeds=i["image"],
        return_dict=False,
    )[0]


def _hunyuan15_comfyui(model: Any, i: dict[str, Any]) -> Any:
    return model(i["x"], i["t"], i["context"], txt_byt5=i["glyphs"], clip_fea=i["image"])


def _cosmos(model: Any, i: dict[str, Any]) -> Any:
    from types import SimpleNamespace

    import torch
    from diffusers.models.transformers import transformer_cosmos

    # diffusers asks torchvision to resize the mask; ours has the size already, so torchvision is not needed.
    same = SimpleNamespace(resize=lambda mask, size, **_: mask)
    transformer_cosmos.transforms = SimpleNamespace(functional=same, InterpolationMode=SimpleNamespace(NEAREST=None))
    h, w = i["x"].shape[-2:]
    return model(i["x"], i["t"], i["context"], padding_mask=torch.zeros(1, 1, h, w), return_dict=False)[0]


def _cogvideox(model: Any, i: dict[str, Any]) -> Any:
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    _, _, t, h, w = i["x"].shape
    grid = (h // 2, w // 2)
    rope = get_3d_rotary_pos_embed(16, ((0, 0), grid), grid, t)
    return model(i["x"].movedim(1, 2), i["context"], i["t"], image_rotary_emb=rope, return_dict=False)[0].movedim(1, 2)


def _kandinsky(model: Any, i: dict[str, Any]) -> Any:
    import torch

    _, _, t, h, w = i["x"].shape
    places = tuple(torch.arange(n) for n in (t, h // 2, w // 2))
    out = model(
        i["x"].permute(0, 2, 3, 4, 1),
        i["context"],
        i["t"],
        i["y"],
        places,
        torch.arange(i["context"].shape[1]),
        scale_factor=(1.0, 2.0, 2.0),
        return_dict=False,
    )
    return out.permute(0, 4, 1, 2, 3)


def _kandinsky_comfyui(model: Any, i: dict[str, Any]) -> Any:
    return model(i["x"], i["t"], i["context"], i["y"])


_WAN_INPUTS = {"x": (1, 5, 3, 8, 12), "t": 400, "context": (1, 9, 40)}
_WAN_EXTRA = {"scale_shift_table": "head.modulation"} | {
    f"{stack}.{n}.scale_shift_table": f"{stack}.{n}.modulation" for stack in ("blocks", "vace_blocks") for n in (0, 1)
}
_COSMOS_INPUTS = {"x": (1, 5, 3, 8, 12), "t": 0.7, "context": (1, 9, 40)}

RUNS = {
    "wan_t2v": Run(_WAN_INPUTS, _wan, _wan_comfyui, extra=_WAN_EXTRA),
    "wan_i2v": Run(
        _WAN_INPUTS | {"context": (1, 512, 40), "image": (1, 257, 1280)}, _wan, _wan_comfyui, extra=_WAN_EXTRA
    ),
    "wan_vace": Run(_WAN_INPUTS | {"control": (1, 9, 3, 8, 12)}, _wan, _wan_comfyui, extra=_WAN_EXTRA),
    "ltx_video": Run(
        {"x": (1, 5, 3, 4, 6), "t": 0.7, "context": (1, 9, 40)},
        _ltx,
        _ltx_comfyui,
        "convert_ltx_transformer_checkpoint_to_diffusers",
    ),
    "hunyuan_video": Run(
        {"x": (1, 5, 3, 8, 12), "t": 700, "context": (1, 9, 40), "y": (1, 24), "guidance": 6.0},
        _hunyuan,
        _hunyuan_comfyui,
    ),
    "mochi": Run({"x": (1, 5, 3, 8, 12), "t": 0.7, "context": (1, 9, 40)}, _mochi, _mochi_comfyui),
    "hunyuan_video15": Run(
        {"x": (1, 5, 3, 4, 6), "t": 700, "context": (1, 9, 40), "glyphs": (1, 7, 1472), "image": (1, 8, 36)},
        _hunyuan15,
        _hunyuan15_comfyui,
    ),
    # Anima is the same transformer with a text adapter, and its random weights would be half a gigabyte.
    "cosmos_predict2": Run(
        _COSMOS_INPUTS, _cosmos, plain_comfyui, "convert_cosmos_transformer_checkpoint_to_diffusers"
    ),
    "cosmos1": Run(
        _COSMOS_INPUTS,
        _cosmos,
        plain_comfyui,
        extra={f"learnable_pos_embed.pos_emb_{axis}": f"extra_pos_embedder.pos_emb_{axis}" for axis in "thw"},
    ),
    "cogvideox": Run({"x": (1, 5, 3, 8, 12), "t": 400, "context": (1, 9, 40)}, _cogvideox, plain_comfyui),
    "kandinsky5": Run(
        {"x": (1, 5, 3, 8, 12), "t": 7, "context": (1, 9, 40), "y": (1, 24)},
        _kandinsky,
        _kandinsky_comfyui,
        tolerance=2e-3,
    ),  # diffusers rotates queries in bfloat16
}
