"""The presets of Forge Neo's page, one a base model, by which its tabs can leave out the cards of other models."""

from __future__ import annotations

from modules import shared

# Preset -> the base models that it is for, as the outline of a file names them.
_PRESETS = {
    "sd": ("Stable Diffusion 1.x",),
    "xl": ("SDXL", "SDXL refiner"),
    "flux": ("Flux.1", "Chroma"),
    "klein": ("Flux.2",),
    "qwen": ("Qwen-Image and Qwen-Image-Edit",),
    "lumina": ("Lumina 2",),
    "zit": ("Z-Image",),
    "wan": ("Wan 2.1 and 2.2",),
    "anima": ("Anima",),
    "ernie": ("ERNIE-Image",),
    "pid": ("PiD",),
    "krea": ("Krea 2",),
}


def hides(base_model: str, chosen: str) -> bool:
    """Whether the page's preset leaves out the card of a file for ``base_model``; ``chosen``: the preset in the user's
    notes on the file, which comes first. A file for none of the presets' base models is never left out.
    """
    if not getattr(shared.opts, "lora_preset_filter", False):
        return False
    own = {chosen} if chosen in _PRESETS else {name for name, models in _PRESETS.items() if base_model in models}
    return bool(own) and getattr(shared.opts, "forge_preset", "") not in own
