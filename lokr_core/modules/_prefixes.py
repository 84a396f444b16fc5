"""Tables: what producers put before the names of modules. A new producer is a new row."""

from __future__ import annotations

import re
from typing import NamedTuple

PREFIX = "base_model.model."
"""The start of every key of PEFT's: its own wrappers around the model."""


class FilePrefix(NamedTuple):
    """A beginning of modules' names.

    pattern: a regular expression
    component: the part of a pipeline that it stands for, "" for none in particular
    flattened: whether the name behind it has "_" in place of dots
    naming: what such names are called
    """

    pattern: str
    component: str
    flattened: bool
    naming: str


_KOHYA, _ONETRAINER, _PEFT = "kohya-ss / LyCORIS", "OneTrainer", "PEFT"
_DIFFUSERS, _COMFYUI = "diffusers names", "ComfyUI names"

# The first row that matches counts, so a prefix stands before any shorter one that it begins with.
PREFIXES = (
    FilePrefix("lora_(?:prior_)?unet_", "unet", True, _KOHYA),  # with prior: Stable Cascade
    *(FilePrefix(f"lora_te{n}_", f"te{n}", True, _KOHYA) for n in range(1, 5)),  # four in HiDream
    FilePrefix("lora_(?:prior_)?te_", "te", True, _KOHYA),
    FilePrefix("lokr_anima_", "unet", True, _KOHYA),  # networks.lokr_anima of sd-scripts-anima
    *(FilePrefix(f"lokr_te{n}_", f"te{n + 1}", True, _KOHYA) for n in range(3)),
    FilePrefix("lora_transformer_", "unet", True, _ONETRAINER),
    FilePrefix("lycoris_", "", True, "LyCORIS standalone"),
    # Dotted ones name the modules of a pipeline, or are the wrapper that a trainer put around its model.
    FilePrefix(r"lora_(?:unet|transformer)\.", "unet", False, _ONETRAINER),
    *(FilePrefix(rf"lora_te{n}\.", f"te{n}", False, _ONETRAINER) for n in range(1, 5)),
    FilePrefix(r"lora_te\.", "te", False, _ONETRAINER),
    FilePrefix(r"(?:text_encoders\.)?(?:clip_l|clip_h)\.(?:transformer\.)?", "te1", False, _COMFYUI),
    FilePrefix(r"(?:text_encoders\.)?clip_g\.(?:transformer\.)?", "te2", False, _COMFYUI),
    FilePrefix(r"text_encoders\.(?:(?:\w+\.)?transformer\.)?", "te", False, _COMFYUI),
    FilePrefix(r"(?:t5|t5xxl|llama)\.", "te", False, "OneTrainer (OMI)"),
    FilePrefix(r"(?:model\.)?diffusion_model\.", "unet", False, _COMFYUI),
    FilePrefix(r"pipe\.dit\.", "unet", False, "DiffSynth"),
    FilePrefix(r"(?:unet|transformer|transformer_2|prior)\.", "unet", False, _DIFFUSERS),
    FilePrefix(r"(?:(?:prior_)?text_encoder|text_encoder_1)\.", "te1", False, _DIFFUSERS),
    *(FilePrefix(rf"text_encoder_{n}\.", f"te{n}", False, _DIFFUSERS) for n in range(2, 5)),
)

# What wrappers add to every name, before or behind a pipeline's prefix: PEFT, and DistributedDataParallel.
WRAPPERS = FilePrefix(rf"(?:{re.escape(PREFIX)}|module\.)+", "", False, _PEFT)

# What wrappers add anywhere inside a name: torch.compile, FSDP, activation checkpointing.
INNER_WRAPPERS = r"(?:^|(?<=[._]))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)[._]"

# The first words of the known architectures' original and diffusers names. They tell a prefix that is a setting of the
# trainer (``lora_prefix`` of a LyCORIS preset) from the name behind it.
ROOTS = (
    "adaln_single", "add_embedding", "blocks", "caption_projection", "clf", "condition_embedder", "context_embedder",
    "context_refiner", "conv_in", "conv_out", "decoder", "double_blocks", "double_stream_modulation_img", "down_blocks",
    "embeddings", "encoder", "final_layer", "guidance_in", "head", "img_in", "input_blocks", "joint_blocks",
    "joint_transformer_blocks", "layers", "llm_adapter", "mid_block", "middle_block", "noise_refiner", "norm_out",
    "output_blocks", "patch_embedding", "pos_embed", "proj_in", "proj_out", "single_blocks", "single_layers",
    "single_stream_blocks", "single_transformer_blocks", "text_embedding", "text_fusion", "text_model", "time_embed",
    "time_embedding", "time_in", "time_projection", "time_text_embed", "token_refiner", "transformer_blocks", "txt_in",
    "up_blocks", "vace_blocks", "vector_in", "x_embedder",
)  # fmt: skip

_FLATTENED = re.compile(rf"(?:^|(?<=[._]))(?:{'|'.join(row.pattern for row in PREFIXES if row.flattened)})")


def holds_prefix(beginning: str) -> bool:
    """Whether a trainer's prefix of flattened names is in ``beginning``: no wrapper's name has one.

    >>> holds_prefix("up_lora_unet_"), holds_prefix("my_net_")
    (True, False)
    """
    return _FLATTENED.search(beginning) is not None
