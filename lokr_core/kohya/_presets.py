"""Which layers of a model get an adapter: LyCORIS' presets, built in or from a TOML file (``lycoris/config.py``)."""

from __future__ import annotations

import fnmatch
import importlib
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import LoKrValueError

# tomllib is in Python 3.11 and later; sd-scripts and musubi-tuner require toml.
_TOML = "tomllib" if sys.version_info >= (3, 11) else "toml"

_TRANSFORMERS = (
    "Transformer2DModel",
    "HunYuanDiTBlock",
    "DoubleStreamBlock",
    "SingleStreamBlock",
    "SingleDiTBlock",
    "MMDoubleStreamBlock",
    "MMSingleStreamBlock",
    "WanAttentionBlock",
    "HunyuanVideoTransformerBlock",
    "HunyuanVideoSingleTransformerBlock",
    "JointTransformerBlock",
    "FinalLayer",
    "QwenImageTransformerBlock",
    "LensTransformerBlock",
    "Ideogram4TransformerBlock",
    "ZImageTransformerBlock",
    "AceStepEncoderLayer",
    "AceStepDiTLayer",
    "TextFusionBlock",
    "Block",
    "PatchEmbed",
    "TimestepEmbedding",
    "LLMAdapterTransformerBlock",
)
_CONVOLUTIONS = ("ResnetBlock2D", "Downsample2D", "Upsample2D")
_TIME_EMBEDDING = ("time_embedding.linear_1", "time_embedding.linear_2")
_GEMMA_2 = ("Gemma2Attention", "Gemma2FlashAttention2", "Gemma2SdpaAttention")
_TEXT_ENCODERS = (
    *("CLIPAttention", "CLIPSdpaAttention", "CLIPMLP", "MT5Block", "BertLayer"),
    *_GEMMA_2,
    "Gemma2MLP",
    *("Qwen3Attention", "Qwen3FlashAttention2", "Qwen3SdpaAttention", "Qwen3MLP"),
)
_TEXT_ATTENTIONS = ("CLIPAttention", "CLIPSdpaAttention", "BertAttention", "MT5LayerSelfAttention", *_GEMMA_2)


@dataclass(frozen=True)
class Preset:
    """Targets of one kind of network.

    unet_target_module: classes whose layers get an adapter, None for all layers of the model
    unet_target_name: names, or patterns of names, of single layers
    text_encoder_target_module, text_encoder_target_name: the same for text encoders
    enable_conv: whether convolutions with a kernel above 1 are taken
    module_algo_map, name_algo_map: options of the layers in a class or of a name, which replace the network's
    use_fnmatch: whether patterns are the shell's; else regular expressions that match from the beginning
    exclude_name: names, or patterns of names, that are left out
    """

    unet_target_module: Collection[str] | None = (*_TRANSFORMERS, *_CONVOLUTIONS)
    unet_target_name: Collection[str] = ("conv_in", "conv_out", *_TIME_EMBEDDING)
    text_encoder_target_module: Collection[str] | None = _TEXT_ENCODERS
    text_encoder_target_name: Collection[str] = ()
    enable_conv: bool = True
    module_algo_map: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    name_algo_map: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    use_fnmatch: bool = False
    exclude_name: Collection[str] = ()

    def among(self, name: str, patterns: Collection[str]) -> bool:
        """Whether ``name`` is one of ``patterns`` or matches one.

        >>> Preset().among("conv_in", ["conv_.*"]), Preset(use_fnmatch=True).among("a.conv_in", ["conv_*"])
        (True, False)
        """
        return name in patterns or any(self._matches(pattern, name) for pattern in patterns)

    def of_name(self, name: str) -> Mapping[str, Any] | None:
        """The options of the layer ``name`` in ``name_algo_map``, None if it has none."""
        if name in self.name_algo_map:
            return self.name_algo_map[name]
        found = (options for pattern, options in self.name_algo_map.items() if self._matches(pattern, name))
        return next(found, None)

    def _matches(self, pattern: str, name: str) -> bool:
        return fnmatch.fnmatch(name, pattern) if self.use_fnmatch else re.match(pattern, name) is not None


FULL = Preset()
_UNET_ONLY = replace(FULL, text_encoder_target_module=())
_LINEAR = replace(FULL, enable_conv=False)
PRESETS = {
    "full": FULL,
    "full-lin": replace(
        _LINEAR, unet_target_module=(*_TRANSFORMERS, "ResnetBlock2D"), unet_target_name=_TIME_EMBEDDING
    ),
    "attn-mlp": replace(_LINEAR, unet_target_module=_TRANSFORMERS, unet_target_name=()),
    "attn-only": replace(
        _LINEAR,
        unet_target_module=("CrossAttention", "SelfAttention"),
        unet_target_name=(),
        text_encoder_target_module=_TEXT_ATTENTIONS,
    ),
    "unet-only": _UNET_ONLY,
    "unet-transformer-only": replace(
        _UNET_ONLY, enable_conv=False, unet_target_module=_TRANSFORMERS, unet_target_name=()
    ),
    "unet-convblock-only": replace(
        _UNET_ONLY, unet_target_module=_CONVOLUTIONS, unet_target_name=("conv_in", "conv_out")
    ),
}
"""The built-in presets that are meant for LoKr, by name."""

# Keys of a preset's file that only ``create_lycoris`` reads.
_OF_THE_WRAPPER = {"target_module", "target_name", "lora_prefix"}


def preset_of(name: str) -> Preset:
    """The preset of a name, or of the TOML file at that path: what it does not give is as in "full".

    Raises LoKrValueError if the file is missing or not TOML, or has an unknown key.

    >>> preset_of("attn-mlp").enable_conv
    False
    """
    if name in PRESETS:
        return PRESETS[name]
    path = Path(name)
    if not path.is_file():
        raise LoKrValueError(
            "Unknown preset",
            expected=f"{', '.join(PRESETS)}, or the path of a TOML file",
            found=name,
            hint="the preset ia3 is for another algorithm" if name == "ia3" else "check the name or the path",
        )
    toml = importlib.import_module(_TOML)
    try:
        entries = toml.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise LoKrValueError(f"The preset cannot be read: {error}", file=path, expected="TOML") from None
    unknown = sorted(set(entries) - set(Preset.__dataclass_fields__) - _OF_THE_WRAPPER)
    if unknown:
        expected = ", ".join(Preset.__dataclass_fields__)
        raise LoKrValueError("Unknown keys in the preset", file=path, expected=expected, found=", ".join(unknown))
    return replace(FULL, **{key: value for key, value in entries.items() if key not in _OF_THE_WRAPPER})
