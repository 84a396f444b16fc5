"""The table of FORMATS: architectures × ways to name modules, as files' keys and as a target's weights.

The names and shapes of both sides were recorded from real models (tests/names/record.py).
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from lokr_core import Target
from lokr_core.formats import parse_adapter

DATA = Path(__file__).resolve().parent.parent / "names" / "data"

# The thirteen of the table, as they are recorded, and what came to the tables since.
TABLE = {
    "SD1.5": "sd15",
    "SDXL": "sdxl",
    "SD3": "sd3",
    "Flux.1": "flux",
    "Flux.2": "flux2",
    "Chroma": "chroma",
    "Z-Image": "z_image",
    "Qwen-Image": "qwen_image",
    "Wan 2.1": "wan_t2v",
    "LTX-Video": "ltx_video",
    "HunyuanVideo": "hunyuan_video",
    "AuraFlow": "auraflow",
    "PixArt Σ": "pixart_sigma",
}
FURTHER = sorted({path.stem for path in DATA.glob("*.json")} - set(TABLE.values()))

NAMINGS = {
    "base_model.model.": lambda name: f"base_model.model.{name}",
    "transformer.": lambda name: f"transformer.{name}",
    "bare": lambda name: name,
    "lycoris_": lambda name: "lycoris_" + name.replace(".", "_"),
    "lora_unet_+diffusers": lambda name: "lora_unet_" + name.replace(".", "_"),
    "lora_transformer_": lambda name: "lora_transformer_" + name.replace(".", "_"),
    "diffusion_model.+diffusers": lambda name: f"diffusion_model.{name}",
    "unet.": lambda name: f"unet.{name}",
}


def recorded(architecture: str) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """(diffusers' module -> shape, ComfyUI's weight -> shape).

    The same names where diffusers has no such model; its authors' weights, or diffusers', where ComfyUI has none.
    """
    data = json.loads((DATA / f"{architecture}.json").read_text())
    weights = data.get("comfyui") or data.get("original") or {f"{m}.weight": s for m, s in data["diffusers"].items()}
    modules = data.get("diffusers") or {name.removesuffix(".weight"): shape for name, shape in weights.items()}
    return tuple({name: tuple(shape) for name, shape in side.items()} for side in (modules, weights))


def lokr_keys(modules: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """A LoKr for each module, as small as it can be: w1 is 1 × 1, w2 has the weight's shape (its memory is shared)."""
    tensors = {}
    for name, shape in modules.items():
        tensors[f"{name}.lokr_w1"] = torch.ones(1, 1)
        tensors[f"{name}.lokr_w2"] = torch.ones(1).expand(shape)
    return tensors


def adapter(modules: dict[str, tuple[int, ...]], naming: str):
    return parse_adapter(lokr_keys({NAMINGS[naming](name): shape for name, shape in modules.items()}))


def comfyui_target(weights: dict[str, tuple[int, ...]]) -> Target:
    return Target({f"diffusion_model.{name}": shape for name, shape in weights.items()})
