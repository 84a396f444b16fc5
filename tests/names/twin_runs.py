"""How to run each pair of twins: inputs, and both models' calling conventions made one.

A runner takes a model and the inputs of `Run.inputs` and returns the output as ComfyUI lays it out. Timesteps are in
0..1 where the architecture counts so, else in 0..1000.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Runner = Callable[[Any, dict[str, Any]], Any]


@dataclass(frozen=True)
class Run:
    """`inputs`: name -> shape (noise) or number; `converter`: diffusers' function for the weights ("": our table,
    proved by the outputs), fed names with `prefix`; `extra`: diffusers' parameters that the table does not name ->
    ComfyUI's; `tolerance`: how far outputs may differ, relatively."""

    inputs: dict[str, Any]
    diffusers: Runner
    comfyui: Runner
    converter: str = ""
    prefix: str = ""
    extra: dict[str, str] = field(default_factory=dict)
    tolerance: float = 5e-5


def _pack(x: Any, patch: int = 2) -> Any:
    """(b, c, h, w) -> (b, tokens, c * patch * patch), as Flux and Qwen-Image take it."""
    b, c, h, w = x.shape
    return (
        x.view(b, c, h // patch, patch, w // patch, patch)
        .permute(0, 2, 4, 1, 3, 5)
        .reshape(b, h * w // patch**2, c * patch**2)
    )


def _unpack(x: Any, h: int, w: int, patch: int = 2) -> Any:
    b, _, c = x.shape
    return (
        x.view(b, h // patch, w // patch, c // patch**2, patch, patch)
        .permute(0, 3, 1, 4, 2, 5)
        .reshape(b, c // patch**2, h, w)
    )


def _ids(h: int, w: int, axes: int = 3) -> Any:
    """Positions of image tokens: rows on axis 1, columns on axis 2."""
    import torch

    ids = torch.zeros(h, w, axes)
    ids[..., 1] += torch.arange(h)[:, None]
    ids[..., 2] += torch.arange(w)[None]
    return ids.reshape(h * w, axes)


def _flux(model: Any, i: dict[str, Any]) -> Any:
    import torch

    h, w = i["x"].shape[-2:]
    more = {"pooled_projections": i["y"]} if "y" in i else {}
    if "guidance" in i:
        more["guidance"] = i["guidance"]
    out = model(
        hidden_states=_pack(i["x"]),
        encoder_hidden_states=i["context"],
        timestep=i["t"],
        img_ids=_ids(h // 2, w // 2),
        txt_ids=torch.zeros(i["context"].shape[1], 3),
        return_dict=False,
        **more,
    )
    return _unpack(out[0], h, w)


def _longcat(model: Any, i: dict[str, Any]) -> Any:
    import torch

    h, w = i["x"].shape[-2:]
    text = torch.arange(i["context"].shape[1])[:, None] * torch.tensor([0, 1, 1])
    out = model(
        hidden_states=_pack(i["x"]),
        encoder_hidden_states=i["context"],
        timestep=i["t"],
        img_ids=_ids(h // 2, w // 2),
        txt_ids=text.float(),
        return_dict=False,
    )
    return _unpack(out[0], h, w)


def _ovis(model: Any, i: dict[str, Any]) -> Any:
    import torch

    h, w = i["x"].shape[-2:]
    text = torch.arange(i["context"].shape[1])[:, None] * torch.tensor([0, 1, 1])
    out = model(
        _pack(i["x"]), i["context"], i["t"], img_ids=_ids(h // 2, w // 2), txt_ids=text.float(), return_dict=False
    )
    return _unpack(out[0], h, w)


def _flux2(model: Any, i: dict[str, Any]) -> Any:
    import torch

    h, w = i["x"].shape[-2:]
    text = torch.zeros(i["context"].shape[1], 4)
    text[:, 3] = torch.arange(len(text))
    out = model(
        hidden_states=_pack(i["x"], 1),
        encoder_hidden_states=i["context"],
        timestep=i["t"],
        img_ids=_ids(h, w, 4),
        txt_ids=text,
        guidance=i.get("guidance"),
        return_dict=False,
    )
    return _unpack(out[0], h, w, 1)


def _flux_comfyui(model: Any, i: dict[str, Any]) -> Any:
    return model(i["x"], i["t"], i["context"], y=i.get("y"), guidance=i.get("guidance"))


def _chroma_comfyui(model: Any, i: dict[str, Any]) -> Any:
    return model(i["x"], i["t"], i["context"], i["t"] * 0)


def _unet(model: Any, i: dict[str, Any]) -> Any:
    added = {"text_embeds": i["pooled"], "time_ids": i["ids"]} if "ids" in i else None
    return model(i["x"], i["t"], i["context"], added_cond_kwargs=added, return_dict=False)[0]


def _unet_comfyui(model: Any, i: dict[str, Any]) -> Any:
    import torch
    from comfy.ldm.modules.diffusionmodules.util import timestep_embedding

    y = torch.cat([i["pooled"], timestep_embedding(i["ids"].flatten(), 8).reshape(1, -1)], 1) if "ids" in i else None
    return model(i["x"], i["t"], i["context"], y=y)


def _sd3(model: Any, i: dict[str, Any]) -> Any:
    return model(
        hidden_states=i["x"],
        encoder_hidden_states=i["context"],
        pooled_projections=i["y"],
        timestep=i["t"],
        return_dict=False,
    )[0]


def _sd3_comfyui(model: Any, i: dict[str, Any]) -> Any:
    return model(i["x"], i["t"], y=i["y"], context=i["context"])


def _plain(model: Any, i: dict[str, Any]) -> Any:
    return model(i["x"], encoder_hidden_states=i["context"], timestep=i["t"], return_dict=False)[0]


def _plain_comfyui(model: Any, i: dict[str, Any]) -> Any:
    return model(i["x"], i["t"], i["context"])


def _pixart(model: Any, i: dict[str, Any]) -> Any:
    added = {"resolution": i.get("size"), "aspect_ratio": i.get("ratio")}
    return model(
        i["x"], encoder_hidden_states=i["context"], timestep=i["t"], added_cond_kwargs=added, return_dict=False
    )[0].chunk(2, 1)[0]


def _pixart_comfyui(model: Any, i: dict[str, Any]) -> Any:
    return model(i["x"], i["t"], i["context"], c_size=i.get("size"), c_ar=i.get("ratio"))


def _z_image(model: Any, i: dict[str, Any]) -> Any:
    import torch

    out = model([i["x"][0].unsqueeze(1)], 1 - i["t"], [i["context"][0]], return_dict=False)[0]
    return -torch.stack(list(out)).squeeze(2)


def _lumina2(model: Any, i: dict[str, Any]) -> Any:
    import torch

    mask = torch.ones(i["context"].shape[:2], dtype=torch.bool)
    return -model(i["x"], 1 - i["t"], i["context"], mask, return_dict=False)[0]


def _lumina_comfyui(model: Any, i: dict[str, Any]) -> Any:
    return model(i["x"], i["t"], i["context"], i["context"].shape[1])


def _ideogram(model: Any, i: dict[str, Any]) -> Any:
    """Text, then image, in one sequence; a token is two by two latents, channels last."""
    import torch

    b, c, h, w = i["x"].shape
    tokens = i["x"].view(b, c // 4, 4, h * w).permute(0, 3, 2, 1).reshape(b, h * w, c)
    text, image = i["context"].shape[1], h * w
    places = torch.cat([torch.arange(text)[:, None].expand(-1, 3), 65536 + _ids(h, w).long()])
    out = model(
        torch.cat([torch.zeros(b, text, c), tokens], 1),
        1 - i["t"],
        torch.cat([i["context"], torch.zeros(b, image, i["context"].shape[2])], 1),
        places[None],
        torch.ones(b, text + image, dtype=torch.long),
        torch.tensor([3] * text + [2] * image)[None],  # what a token is
        return_dict=False,
    )[0][:, text:]
    return -out.view(b, h * w, 4, c // 4).permute(0, 3, 2, 1).reshape(b, c, h, w)


def _joyimage(model: Any, i: dict[str, Any]) -> Any:
    return model(i["x"], i["t"], i["context"], return_dict=False)[0]


def _mochi(model: Any, i: dict[str, Any]) -> Any:
    import torch

    mask = torch.ones(i["context"].shape[:2], dtype=torch.bool)
    return -model(i["x"], i["context"], 1000 * (1 - i["t"]), mask, return_dict=False)[0]


def _mochi_comfyui(model: Any, i: dict[str, Any]) -> Any:
    import torch

    return model(i["x"], i["t"], i["context"], torch.ones(i["context"].shape[:2], dtype=torch.bool))


def _qwen(model: Any, i: dict[str, Any]) -> Any:
    import torch

    h, w = i["x"].shape[-2:]
    out = model(
        _pack(i["x"][:, :, 0]),
        i["context"],
        torch.ones(i["context"].shape[:2]),
        i["t"],
        img_shapes=[[(1, h // 2, w // 2)]],
        return_dict=False,
    )[0]
    return _unpack(out, h, w).unsqueeze(2)


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


def _hunyuan_image(model: Any, i: dict[str, Any]) -> Any:
    import torch

    masks = [torch.ones(i[name].shape[:2]) for name in ("context", "glyphs")]
    return model(
        i["x"],
        i["t"],
        i["context"],
        masks[0],
        timestep_r=i["next"] * 1000,
        encoder_hidden_states_2=i["glyphs"],
        encoder_attention_mask_2=masks[1],
        guidance=i["guidance"] * 1000,
        return_dict=False,
    )[0]


def _hunyuan_image_comfyui(model: Any, i: dict[str, Any]) -> Any:
    import torch

    now = i["t"] / 1000
    return model(
        i["x"],
        i["t"],
        i["context"],
        txt_byt5=i["glyphs"],
        guidance=i["guidance"],
        transformer_options={"sigmas": now, "sample_sigmas": torch.cat([now, i["next"]])},
    )


def _hunyuan_dit(model: Any, i: dict[str, Any]) -> Any:
    import torch
    from diffusers.models.embeddings import get_2d_rotary_pos_embed
    from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid

    grid = (i["x"].shape[2] // 2, i["x"].shape[3] // 2)
    rope = get_2d_rotary_pos_embed(16, get_resize_crop_region_for_grid(grid, 32), grid, output_type="pt")
    masks = [torch.ones(i[name].shape[:2]) for name in ("context", "t5")]
    out = model(i["x"], i["t"], i["context"], masks[0], i["t5"], masks[1], image_rotary_emb=rope, return_dict=False)[0]
    return out.chunk(2, 1)[0]


def _hunyuan_dit_comfyui(model: Any, i: dict[str, Any]) -> Any:
    import torch

    masks = [torch.ones(i[name].shape[:2]) for name in ("context", "t5")]
    return model(i["x"], i["t"], i["context"], masks[0], i["t5"], masks[1])


def _hidream(model: Any, i: dict[str, Any]) -> Any:
    return model(i["x"], i["t"], i["context"], i["llama"].movedim(1, 0), i["y"], return_dict=False)[0]


def _hidream_comfyui(model: Any, i: dict[str, Any]) -> Any:
    return -model(i["x"], i["t"], i["y"], i["context"], i["llama"])


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


def _ernie(model: Any, i: dict[str, Any]) -> Any:
    import torch

    return model(i["x"], i["t"], i["context"], torch.tensor([i["context"].shape[1]]), return_dict=False)[0]


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


_IMAGE = {"x": (1, 4, 12, 16), "t": 0.7, "context": (1, 9, 40)}
_UNET_INPUTS = {"x": (1, 4, 16, 24), "t": 400, "context": (1, 9, 40)}
_SD3_INPUTS = {"x": (1, 5, 12, 16), "t": 700, "context": (1, 9, 40), "y": (1, 24)}
_WAN_INPUTS = {"x": (1, 5, 3, 8, 12), "t": 400, "context": (1, 9, 40)}
_GATES = "to_scale_shift_gate"
_UNET = {"converter": "convert_ldm_unet_checkpoint", "prefix": "model.diffusion_model."}
_WAN_EXTRA = {"scale_shift_table": "head.modulation"} | {
    f"{stack}.{n}.scale_shift_table": f"{stack}.{n}.modulation" for stack in ("blocks", "vace_blocks") for n in (0, 1)
}

_COSMOS_INPUTS = {"x": (1, 5, 3, 8, 12), "t": 0.7, "context": (1, 9, 40)}
_PIXART_EXTRA = {"scale_shift_table": "final_layer.scale_shift_table"} | {
    f"transformer_blocks.{n}.scale_shift_table": f"blocks.{n}.scale_shift_table" for n in (0, 1)
}

RUNS: dict[str, Run] = {
    "sd15": Run(_UNET_INPUTS, _unet, _unet_comfyui, **_UNET),
    "sd2": Run(_UNET_INPUTS, _unet, _unet_comfyui, **_UNET),
    "sdxl": Run(_UNET_INPUTS | {"pooled": (1, 20), "ids": (1, 6)}, _unet, _unet_comfyui, **_UNET),
    "sdxl_refiner": Run(_UNET_INPUTS | {"pooled": (1, 20), "ids": (1, 5)}, _unet, _unet_comfyui, **_UNET),
    "ssd_1b": Run(_UNET_INPUTS | {"pooled": (1, 20), "ids": (1, 6)}, _unet, _unet_comfyui),
    "koala_700m": Run(_UNET_INPUTS | {"pooled": (1, 20), "ids": (1, 6)}, _unet, _unet_comfyui),
    "sd3": Run(_SD3_INPUTS, _sd3, _sd3_comfyui, extra={"pos_embed.pos_embed": "pos_embed"}),
    "sd35": Run(_SD3_INPUTS, _sd3, _sd3_comfyui, extra={"pos_embed.pos_embed": "pos_embed"}),
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
    "z_image": Run(
        {"x": (1, 5, 16, 16), "t": 0.7, "context": (1, 32, 40)},
        _z_image,
        _lumina_comfyui,
        "convert_z_image_transformer_checkpoint_to_diffusers",
    ),
    "lumina2": Run({"x": (1, 5, 16, 16), "t": 0.7, "context": (1, 9, 40)}, _lumina2, _lumina_comfyui),
    "qwen_image": Run({"x": (1, 5, 1, 12, 16), "t": 0.7, "context": (1, 9, 40)}, _qwen, _plain_comfyui),
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
    "ideogram4": Run(
        {"x": (1, 20, 6, 8), "t": 0.7, "context": (1, 9, 40)},
        _ideogram,
        _plain_comfyui,
        extra={"embed_image_indicator.weight": "embed_image_indicator.weight"},
    ),
    "joyimage": Run({"x": (1, 5, 1, 8, 12), "t": 700, "context": (1, 9, 40)}, _joyimage, _plain_comfyui),
    "mochi": Run({"x": (1, 5, 3, 8, 12), "t": 0.7, "context": (1, 9, 40)}, _mochi, _mochi_comfyui),
    "auraflow": Run(
        {"x": (1, 5, 16, 24), "t": 0.7, "context": (1, 9, 40)},
        _plain,
        _plain_comfyui,
        "convert_auraflow_transformer_checkpoint_to_diffusers",
    ),
    "pixart_sigma": Run(
        {"x": (1, 5, 64, 64), "t": 400, "context": (1, 9, 40)}, _pixart, _pixart_comfyui, extra=_PIXART_EXTRA
    ),
    "pixart_alpha": Run(
        {"x": (1, 5, 64, 64), "t": 400, "context": (1, 9, 40), "size": (1, 2), "ratio": (1, 1)},
        _pixart,
        _pixart_comfyui,
        extra=_PIXART_EXTRA,
    ),
    "hunyuan_video15": Run(
        {"x": (1, 5, 3, 4, 6), "t": 700, "context": (1, 9, 40), "glyphs": (1, 7, 1472), "image": (1, 8, 36)},
        _hunyuan15,
        _hunyuan15_comfyui,
    ),
    "hunyuan_image": Run(
        {"x": (1, 5, 4, 6), "t": 700, "next": 0.5, "context": (1, 9, 40), "glyphs": (1, 7, 1472), "guidance": 3.5},
        _hunyuan_image,
        _hunyuan_image_comfyui,
    ),
    "hunyuan_dit": Run(
        {"x": (1, 4, 16, 16), "t": 400, "context": (1, 5, 40), "t5": (1, 7, 56)},
        _hunyuan_dit,
        _hunyuan_dit_comfyui,
        extra={"time_extra_emb.pooler.positional_embedding": "pooler.positional_embedding"}
        | {
            f"blocks.{n}.norm{a}.{p}": f"blocks.{n}.norm{b}.{p}"
            for n in range(4)
            for a, b in ((2, 3), (3, 2))
            for p in ("weight", "bias")
        },
    ),
    "hidream": Run(
        {"x": (1, 5, 16, 16), "t": 400, "context": (1, 9, 40), "y": (1, 24), "llama": (1, 4, 8, 36)},
        _hidream,
        _hidream_comfyui,
    ),
    # Anima is the same transformer with a text adapter, and its random weights would be half a gigabyte.
    "cosmos_predict2": Run(
        _COSMOS_INPUTS, _cosmos, _plain_comfyui, "convert_cosmos_transformer_checkpoint_to_diffusers"
    ),
    "cosmos1": Run(
        _COSMOS_INPUTS,
        _cosmos,
        _plain_comfyui,
        extra={f"learnable_pos_embed.pos_emb_{axis}": f"extra_pos_embedder.pos_emb_{axis}" for axis in "thw"},
    ),
    "cogvideox": Run({"x": (1, 5, 3, 8, 12), "t": 400, "context": (1, 9, 40)}, _cogvideox, _plain_comfyui),
    "ernie_image": Run({"x": (1, 20, 6, 8), "t": 400, "context": (1, 9, 40)}, _ernie, _plain_comfyui),
    "kandinsky5": Run(
        {"x": (1, 5, 3, 8, 12), "t": 7, "context": (1, 9, 40), "y": (1, 24)},
        _kandinsky,
        _kandinsky_comfyui,
        tolerance=2e-3,
    ),  # diffusers rotates queries in bfloat16
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
    "stable_cascade_c": Run(
        {"x": (1, 5, 8, 12), "t": 0.7, "context": (1, 9, 40), "pooled": (1, 1, 36), "image": (1, 1, 28)},
        _cascade,
        _cascade_comfyui,
    ),
    "stable_cascade_b": Run(
        {"x": (1, 5, 32, 48), "t": 0.7, "pooled": (1, 1, 36), "effnet": (1, 7, 4, 6)}, _cascade, _cascade_comfyui
    ),
}
