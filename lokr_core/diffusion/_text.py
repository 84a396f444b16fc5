"""Captions -> what a denoiser takes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LAYERS = r"(self_attn\.(q_proj|k_proj|v_proj|out_proj)|mlp\.fc[12])"


@dataclass(frozen=True)
class Encoder:
    """A text encoder of a pipeline.

    hidden: the layer whose output is used, "last", "penultimate" or "none"; pooled: whether the pooled output is
    clip: whether it is a CLIP, which can be trained; else T5
    length: of T5's prompts in tokens, at most; a CLIP's is its tokenizer's
    """

    name: str
    hidden: str
    pooled: bool = False
    clip: bool = True
    length: int | None = None

    @property
    def tokenizer(self) -> str:
        """The name of its tokenizer in the pipeline."""
        return self.name.replace("text_encoder", "tokenizer")

    def tokens(self, tokenizer: Any, captions: Sequence[str]) -> Tensor:
        """(captions, tokens); what is longer than the encoder takes is cut off."""
        length = min(self.length or tokenizer.model_max_length, tokenizer.model_max_length)
        options = dict(padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return tokenizer(list(captions), **options).input_ids

    def targets(self, layers: int) -> str:
        """A regular expression of the layers of a CLIP with so many blocks that get adapters: those it uses."""
        used = layers - (self.hidden == "penultimate" and not self.pooled)
        blocks = "|".join(map(str, range(used)))
        return rf"{self.name}\.(text_model\.)?encoder\.layers\.({blocks})\.{_LAYERS}"

    def encode(self, model: nn.Module, tokens: Tensor) -> dict[str, Tensor]:
        """(n, tokens) -> this encoder's outputs by name: "….hidden" (n, tokens, width), "….pooled" (n, width)."""
        outputs = model(tokens, output_hidden_states=True)
        found = {}
        if self.hidden != "none":
            last = outputs.last_hidden_state
            found[f"{self.name}.hidden"] = last if self.hidden == "last" else outputs.hidden_states[-2]
        if self.pooled:
            projected = getattr(outputs, "text_embeds", None)
            found[f"{self.name}.pooled"] = outputs.pooler_output if projected is None else projected
        return found


def joined_sd(outputs: Mapping[str, Tensor], denoiser: nn.Module) -> dict[str, Tensor]:
    """CLIP's last layer: "prompt" (n, 77, 768 or 1024)."""
    return {"prompt": outputs["text_encoder.hidden"]}


def joined_sdxl(outputs: Mapping[str, Tensor], denoiser: nn.Module) -> dict[str, Tensor]:
    """Both encoders' layers side by side: "prompt" (n, 77, 2048); the second's "pooled" (n, 1280)."""
    prompt = torch.cat([outputs["text_encoder.hidden"], outputs["text_encoder_2.hidden"]], dim=-1)
    return {"prompt": prompt, "pooled": outputs["text_encoder_2.pooled"]}


def joined_sd3(outputs: Mapping[str, Tensor], denoiser: nn.Module) -> dict[str, Tensor]:
    """Both CLIPs side by side, padded to T5's width, and T5 after them: "prompt" (n, 77 + 256, 4096).

    Without T5 its place is zeros. "pooled" (n, 2048) is that of both CLIPs.
    """
    clips = torch.cat([outputs["text_encoder.hidden"], outputs["text_encoder_2.hidden"]], dim=-1)
    width: int = denoiser.config.joint_attention_dim  # type: ignore[assignment, union-attr]
    t5 = outputs.get("text_encoder_3.hidden")
    t5 = clips.new_zeros(len(clips), 256, width) if t5 is None else t5.to(clips.dtype)
    prompt = torch.cat([F.pad(clips, (0, width - clips.shape[-1])), t5], dim=1)
    pooled = torch.cat([outputs["text_encoder.pooled"], outputs["text_encoder_2.pooled"]], dim=-1)
    return {"prompt": prompt, "pooled": pooled}


def joined_flux(outputs: Mapping[str, Tensor], denoiser: nn.Module) -> dict[str, Tensor]:
    """T5's last layer: "prompt" (n, 512, 4096); CLIP's "pooled" (n, 768)."""
    return {"prompt": outputs["text_encoder_2.hidden"], "pooled": outputs["text_encoder.pooled"]}
