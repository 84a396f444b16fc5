"""Tables: how each format that can be written spells the modules of an adapter. A new format is a new row."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..errors import LoKrValueError

OWN = "own"
"""Names as the model itself has them."""
TRAINED = "trained"
"""Diffusers' names for UNets and transformers' for text encoders, the original ones for everything else."""

_UNET = re.compile(r"(?:down|up|mid)_block")
_TEXT = re.compile(r"(?:text_model[._])?(?:encoder[._](?:layers?|block)|model[._]layers)[._]|text_model[._]")


class Layout(NamedTuple):
    """``names``: whose names it has, "original", "diffusers", ``OWN`` or ``TRAINED``. ``flattened``: "_" for the dots.
    ``prefixes``: component ("" for any other) -> what stands before its names. ``unet``: what does in place of "" for a
    UNet, where that differs from other denoisers.
    ``parts``: what stands before the diffusers name of a part of a fused weight, for which the original has no name.
    ``config``: where PEFT's configuration goes that holds r and alpha, "beside" or "metadata"; None: alphas are stored.
    """

    names: str
    flattened: bool
    prefixes: Mapping[str, str]
    unet: str | None = None
    parts: str | None = None
    config: str | None = None

    def spell(self, component: str, path: str, part: bool = False) -> str:
        """A module's full name. ``part``: ``path`` is diffusers' name of a part of a fused weight."""
        prefix = self.parts if part else self.prefixes.get(component, self.prefixes[""])
        return prefix + (path.replace(".", "_") if self.flattened else path)

    def for_unet(self) -> Layout:
        return self if self.unet is None else self._replace(prefixes={**self.prefixes, "": self.unet})


_TEXT_ENCODERS = {"te": "text_encoder.", "te1": "text_encoder."} | {f"te{n}": f"text_encoder_{n}." for n in (2, 3, 4)}

LAYOUTS = {
    "kohya": Layout(
        TRAINED,
        True,
        {"": "lora_unet_", "te": "lora_te_"} | {f"te{n}": f"lora_te{n}_" for n in (1, 2, 3, 4)},
        parts="lora_transformer_",
    ),
    "lycoris": Layout("diffusers", True, {"": "lycoris_"}),
    # ComfyUI knows its own names for every model, and for text encoders and the parts of fused weights diffusers'.
    "comfyui": Layout("original", False, {"": "diffusion_model.", **_TEXT_ENCODERS}, parts="transformer."),
    "diffusers": Layout("diffusers", False, {"": "transformer.", **_TEXT_ENCODERS}, unet="unet.", config="metadata"),
    "peft": Layout(OWN, False, {"": "base_model.model."}, config="beside"),
}


def layout_of(name: str) -> Layout:
    """The layout of that name, or LoKrValueError."""
    if name not in LAYOUTS:
        raise LoKrValueError("There is no such format", expected=", ".join(LAYOUTS), found=repr(name))
    return LAYOUTS[name]


def is_unet(paths: Iterable[str]) -> bool:
    """Whether these are diffusers' names of a UNet's modules, some of them at least."""
    return any(map(_UNET.match, paths))


def component_of(path: str) -> str:
    """The part of a pipeline that a module without a prefix is of, by its name.

    >>> component_of("text_model.encoder.layers.0.mlp.fc1"), component_of("down_blocks_0_attentions_0_proj_in")
    ('te', 'unet')
    """
    return "te" if _TEXT.match(path) else "unet"
