"""Tables: how each format that can be written spells the modules of an adapter. A new format is a new row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ._prefixes import PREFIX

OWN = "own"
"""Names as the model itself has them."""


TRAINED = "trained"
"""Diffusers' names for UNets and transformers' for text encoders, the original ones for everything else."""


class Spelling(NamedTuple):
    """How a format that is written names modules.

    names: whose names: "original", "diffusers", ``OWN`` or ``TRAINED``
    flattened: whether "_" stands in place of dots
    prefixes: part of a pipeline -> prefix, "" for all other parts; each is read by a row of ``PREFIXES``
    unet: the prefix of a UNet, if it differs from that of other denoisers
    split: the prefix of diffusers' names for parts of a fused weight, if the original has no names for them
    config: where PEFT's configuration goes, which holds r and alpha: "beside" or "metadata"; None: alphas are stored
    """

    names: str
    flattened: bool
    prefixes: Mapping[str, str]
    unet: str | None = None
    split: str | None = None
    config: str | None = None

    def spell(self, component: str, path: str, split: bool = False) -> str:
        """A module's full name. ``split``: ``path`` is diffusers' name for a part of a fused weight.

        >>> SPELLINGS["kohya"].spell("te1", "text_model.encoder.layers.0.mlp.fc1")
        'lora_te1_text_model_encoder_layers_0_mlp_fc1'
        """
        prefix = (self.split or "") if split else self.prefixes.get(component, self.prefixes[""])
        return prefix + (path.replace(".", "_") if self.flattened else path)

    def for_unet(self) -> Spelling:
        """The same for an adapter of a UNet."""
        return self if self.unet is None else self._replace(prefixes={**self.prefixes, "": self.unet})


_TEXT_ENCODERS = {"te": "text_encoder.", "te1": "text_encoder."} | {f"te{n}": f"text_encoder_{n}." for n in (2, 3, 4)}


SPELLINGS = {
    "kohya": Spelling(
        TRAINED,
        True,
        {"": "lora_unet_", "te": "lora_te_"} | {f"te{n}": f"lora_te{n}_" for n in (1, 2, 3, 4)},
        split="lora_transformer_",
    ),
    "lycoris": Spelling("diffusers", True, {"": "lycoris_"}),
    # ComfyUI reads its own names of every model, and diffusers' names of text encoders and parts of fused weights.
    "comfyui": Spelling("original", False, {"": "diffusion_model.", **_TEXT_ENCODERS}, split="transformer."),
    # The names of a model's authors without a prefix, each weight in one piece.
    "original": Spelling("original", False, {"": "", **_TEXT_ENCODERS}),
    "diffusers": Spelling("diffusers", False, {"": "transformer.", **_TEXT_ENCODERS}, unet="unet.", config="metadata"),
    "peft": Spelling(OWN, False, {"": PREFIX}, config="beside"),
}

UP_DOWN = ("kohya", "lycoris", "comfyui")
"""Formats whose LoRA is lora_up, lora_down and alpha, and which hold full differences; others have lora_B, lora_A."""
