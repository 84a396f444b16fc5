"""One spelling of each base model, whoever has written its name."""

from __future__ import annotations

import re

# Our title -> how trainers, model sites and people begin its name, without case, spaces and punctuation.
_SPELLINGS = {
    "Stable Diffusion 1.x": ("stablediffusionv1", "stablediffusion1", "sdv1", "sd1", "sd14", "sd15"),
    "Stable Diffusion 2.x": ("stablediffusionv2", "stablediffusion2", "sdv2", "sd2", "sd20", "sd21"),
    "Stable Diffusion 3 and 3.5": ("stablediffusionv3", "stablediffusion3", "sdv3", "sd3", "sd35"),
    "SDXL": ("stablediffusionxl", "sdxl", "xl10", "pony", "illustrious", "noobai"),
    "Flux.2": ("flux2",),
    "Flux.1": ("flux1", "fluxdev", "fluxschnell", "flux"),
    "Chroma": ("chroma",),
    "Qwen-Image and Qwen-Image-Edit": ("qwenimage", "qwen"),
    "Wan 2.1 and 2.2": ("wan",),
    "HunyuanVideo 1.5": ("hunyuanvideo15",),
    "HunyuanVideo": ("hunyuanvideo", "hunyuan1", "hunyuan"),
    "Z-Image": ("zimage",),
    "LTX-2": ("ltx2", "ltxv2"),
    "LTX-Video": ("ltxvideo", "ltxv", "ltx"),
    "AuraFlow": ("auraflow",),
    "PixArt Alpha and Sigma": ("pixart",),
    "HiDream-I1": ("hidream",),
    "Lumina 2": ("lumina",),
    "CogVideoX": ("cogvideo",),
    "Kandinsky 5": ("kandinsky5",),
    "Anima": ("anima",),
    "Krea 2": ("krea2",),
}
_TITLES = sorted(
    ((spelling, title) for title, spellings in _SPELLINGS.items() for spelling in spellings),
    key=lambda item: -len(item[0]),
)


def base_model_spelled(name: str) -> str:
    """The title of the base model that a file or a sidecar calls ``name``, ``name`` itself if it is unknown.

    >>> base_model_spelled("sd_v1"), base_model_spelled("SD 1.5"), base_model_spelled("Flux.1 D")
    ('Stable Diffusion 1.x', 'Stable Diffusion 1.x', 'Flux.1')
    >>> base_model_spelled("flux-1-dev/lora"), base_model_spelled("my own")
    ('Flux.1', 'my own')
    """
    plain = re.sub(r"[\W_]+", "", name.lower())
    return next((title for spelling, title in _TITLES if plain.startswith(spelling)), name)


def base_model_spellings(title: str) -> tuple[str, ...]:
    """How people write a base model's name, without case, spaces and punctuation; () if its title is all we know."""
    return _SPELLINGS.get(title, ())
