"""Further transformers for images."""

from __future__ import annotations

from typing import Any

from .run import Run, ids, plain, plain_comfyui


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
    places = torch.cat([torch.arange(text)[:, None].expand(-1, 3), 65536 + ids(h, w).long()])
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


def _hidream(model: Any, i: dict[str, Any]) -> Any:
    return model(i["x"], i["t"], i["context"], i["llama"].movedim(1, 0), i["y"], return_dict=False)[0]


def _hidream_comfyui(model: Any, i: dict[str, Any]) -> Any:
    return -model(i["x"], i["t"], i["y"], i["context"], i["llama"])


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


def _ernie(model: Any, i: dict[str, Any]) -> Any:
    import torch

    return model(i["x"], i["t"], i["context"], torch.tensor([i["context"].shape[1]]), return_dict=False)[0]


_SD3_INPUTS = {"x": (1, 5, 12, 16), "t": 700, "context": (1, 9, 40), "y": (1, 24)}
_PIXART_EXTRA = {"scale_shift_table": "final_layer.scale_shift_table"} | {
    f"transformer_blocks.{n}.scale_shift_table": f"blocks.{n}.scale_shift_table" for n in (0, 1)
}

RUNS = {
    "sd3": Run(_SD3_INPUTS, _sd3, _sd3_comfyui, extra={"pos_embed.pos_embed": "pos_embed"}),
    "sd35": Run(_SD3_INPUTS, _sd3, _sd3_comfyui, extra={"pos_embed.pos_embed": "pos_embed"}),
    "z_image": Run(
        {"x": (1, 5, 16, 16), "t": 0.7, "context": (1, 32, 40)},
        _z_image,
        _lumina_comfyui,
        "convert_z_image_transformer_checkpoint_to_diffusers",
    ),
    "lumina2": Run({"x": (1, 5, 16, 16), "t": 0.7, "context": (1, 9, 40)}, _lumina2, _lumina_comfyui),
    "ideogram4": Run(
        {"x": (1, 20, 6, 8), "t": 0.7, "context": (1, 9, 40)},
        _ideogram,
        plain_comfyui,
        extra={"embed_image_indicator.weight": "embed_image_indicator.weight"},
    ),
    "joyimage": Run({"x": (1, 5, 1, 8, 12), "t": 700, "context": (1, 9, 40)}, _joyimage, plain_comfyui),
    "auraflow": Run(
        {"x": (1, 5, 16, 24), "t": 0.7, "context": (1, 9, 40)},
        plain,
        plain_comfyui,
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
    "ernie_image": Run({"x": (1, 20, 6, 8), "t": 400, "context": (1, 9, 40)}, _ernie, plain_comfyui),
}
