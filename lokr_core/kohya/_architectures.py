"""A table: what musubi-tuner trains of each architecture by default (``networks/network_arch.py``, ``lora_*.py``)."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from ..errors import LoKrValueError


class Architecture(NamedTuple):
    """A row.

    sign: a class that only models of the architecture have, of those that no row above it has
    classes: whose layers get an adapter, None for all layers
    excluded: patterns of whole names that are left out unless ``include_patterns`` takes them
    """

    sign: str
    classes: tuple[str, ...] | None
    excluded: tuple[str, ...] = ()


_ARCHITECTURES = (
    Architecture(
        "WanAttentionBlock",
        ("WanAttentionBlock",),
        (r".*(patch_embedding|text_embedding|time_embedding|time_projection|norm|head).*",),
    ),
    Architecture("QwenImageTransformerBlock", ("QwenImageTransformerBlock",), (r".*(_mod_).*",)),
    Architecture("ZImageTransformerBlock", ("ZImageTransformerBlock",), (r".*(_modulation|_refiner).*",)),
    Architecture(  # FramePack
        "HunyuanVideoTransformerBlock",
        ("HunyuanVideoTransformerBlock", "HunyuanVideoSingleTransformerBlock"),
        (r".*(norm).*",),
    ),
    Architecture(  # FLUX.1 Kontext, FLUX.2
        "DoubleStreamBlock",
        ("DoubleStreamBlock", "SingleStreamBlock"),
        (r".*(img_mod\.lin|txt_mod\.lin|modulation\.lin).*", r".*(norm).*"),
    ),
    Architecture(  # HunyuanVideo
        "MMSingleStreamBlock", ("MMDoubleStreamBlock", "MMSingleStreamBlock"), (r".*(img_mod|txt_mod|modulation).*",)
    ),
    Architecture("MMDoubleStreamBlock", ("MMDoubleStreamBlock",), (r".*(_in).*",)),  # HunyuanVideo 1.5
    Architecture("Ideogram4TransformerBlock", ("Ideogram4TransformerBlock",), (r".*adaln_modulation.*",)),
    Architecture(  # Kandinsky 5
        "TransformerDecoderBlock", ("TransformerEncoderBlock", "TransformerDecoderBlock"), (r".*modulation.*",)
    ),
    Architecture("TextFusionBlock", None),  # Krea 2
)


def architecture_of(model: nn.Module) -> Architecture:
    """The row of ``model``, by the classes of its modules. Raises LoKrValueError if none fits."""
    classes = {type(module).__name__ for module in model.modules()}
    found = next((row for row in _ARCHITECTURES if row.sign in classes), None)
    if found is None:
        raise LoKrValueError(
            "The architecture of this model is unknown",
            expected=f"one of the classes {', '.join(row.sign for row in _ARCHITECTURES)}",
            found=", ".join(sorted(classes)[:20]),
            hint="name the classes to train in a LyCORIS preset: --network_args preset=FILE.toml",
        )
    return found
