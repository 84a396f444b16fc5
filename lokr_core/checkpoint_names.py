"""What the weights of a checkpoint are called in adapters: a checkpoint holds several models, each below a prefix."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from .files import Header
from .names import Slot, aliases
from .resolve import Target

__all__ = ["target_of"]


class Part(NamedTuple):
    """A model inside a checkpoint: the prefix of its weights, and what adapters put before its modules' names."""

    prefix: str
    spellings: tuple[str, ...]


_DENOISER = ("", "diffusion_model.")
# The original SD, SDXL and SD3 checkpoints and ComfyUI's own saves; the last row is a model's own file. The text
# encoders have the same names inside, so only names that say which one are theirs.
PARTS = (
    Part("model.diffusion_model.", _DENOISER),
    Part("cond_stage_model.transformer.", ("lora_te_", "lora_te1_", "text_encoder.")),
    Part("cond_stage_model.model.", ("lora_te_", "lora_te1_", "text_encoder.")),
    Part("conditioner.embedders.0.transformer.", ("lora_te1_", "text_encoder.")),
    # The refiner has OpenCLIP alone, in place 0.
    Part("conditioner.embedders.0.model.", ("lora_te2_", "lora_te1_", "text_encoder_2.")),
    Part("conditioner.embedders.1.model.", ("lora_te2_", "text_encoder_2.")),
    Part("text_encoders.clip_l.transformer.", ("lora_te1_", "text_encoder.")),
    Part("text_encoders.clip_g.transformer.", ("lora_te2_", "text_encoder_2.")),
    Part("", ("",)),
)


def target_of(header: Header) -> Target:
    """The weights of a checkpoint, by their own names and by those that adapters know them by."""
    shapes = {name: info.shape for name, info in header.tensors.items() if len(info.shape) > 1}
    names: dict[str, tuple[Slot, ...]] = {}
    for part in PARTS:
        inside = {name[len(part.prefix) :]: shape for name, shape in shapes.items() if name.startswith(part.prefix)}
        known = aliases(inside)
        if part.prefix:
            modules = [name.rpartition(".")[0] for name in inside if name.endswith(".weight")]
            known = {**{module: (Slot(module),) for module in modules}, **known}
        for name, slots in known.items():
            # ``resolve`` knows rows of a target's weight, not yet swapped halves nor parts of a file's module: better
            # such a module is refused than put in the wrong place.
            if any(slot.swap or slot.source_rows for slot in slots):
                continue
            placed = tuple(replace(slot, module=part.prefix + slot.module) for slot in slots)
            for spelling in part.spellings:
                names.setdefault(spelling + name, placed)
    return Target(shapes, names)
