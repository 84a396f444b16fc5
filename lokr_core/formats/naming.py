"""Tables: how producers name modules, and what tensors that are no LoKr belong to. A new producer is a new row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from ..adapter import ModuleName

__all__ = ["LOKR_TENSORS", "describe", "module_name", "other_kinds"]


class Naming(NamedTuple):
    """One row of the table of producers' namings; the first row whose prefix a name begins with is its own."""

    prefix: str
    component: str
    flattened: bool
    producer: str


NAMINGS = (
    Naming("lora_unet_", "unet", True, "kohya-ss / LyCORIS"),
    Naming("lora_te1_", "te1", True, "kohya-ss / LyCORIS"),
    Naming("lora_te2_", "te2", True, "kohya-ss / LyCORIS"),
    Naming("lora_te3_", "te3", True, "kohya-ss / LyCORIS"),
    Naming("lora_te_", "te", True, "kohya-ss / LyCORIS"),
    Naming("lycoris_", "", True, "LyCORIS standalone"),
    Naming("", "", False, "plain module names"),
)

LOKR_TENSORS = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t1", "lokr_t2")

# What a tensor that is no LoKr belongs to, by how its key ends. From LyCORIS' modules and ComfyUI's loaders.
OTHER_ALGORITHMS = (
    (("lora_up.weight", "lora_down.weight", "lora_mid.weight", "lora_A.weight", "lora_B.weight"), "LoRA"),
    (("lora.up.weight", "lora.down.weight", "lora_A.default.weight", "lora_B.default.weight"), "LoRA"),
    (("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"), "LoHa"),
    (("oft_blocks", "oft_diag", "rescale"), "OFT"),
    (("a1.weight", "a2.weight", "b1.weight", "b2.weight"), "GLoRA"),
    (("w_norm", "b_norm"), "norm"),
    (("diff", "diff_b"), "full difference"),
    (("on_input",), "IA3"),
)


# What a file without any LoKr is, by its names: a mark that ends in "." or "_" is a part of one, any other a whole one.
WHOLE_FILES = (
    (("model.diffusion_model.", "first_stage_model.", "cond_stage_model."), "a whole checkpoint"),
    (("emb_params", "string_to_param", "clip_l", "clip_g"), "a textual inversion embedding"),
    (("control_model.", "controlnet_"), "a ControlNet"),
    (("decoder.up.", "decoder.up_blocks.", "encoder.down."), "a VAE"),
    (("text_model.encoder.",), "a text encoder"),
)


def module_name(module: str) -> tuple[ModuleName, str]:
    """A module's name taken apart, and the producer who names modules like that."""
    row = next(row for row in NAMINGS if module.startswith(row.prefix))
    return ModuleName(module, module[len(row.prefix) :], row.component, row.flattened), row.producer


def other_kinds(keys: Iterable[str]) -> dict[str, str]:
    """Module name -> what its tensors, which are no LoKr, are; a key of no known kind stands for itself, "unknown"."""
    kinds: dict[str, str] = {}
    unclear = []
    for key in keys:
        module, kind = next(
            (
                (key[: -len(end) - 1], kind)
                for ends, kind in OTHER_ALGORITHMS
                for end in ends
                if key.endswith("." + end)
            ),
            (None, None),
        )
        if module is None:
            unclear.append(key)
        else:
            kinds[module] = kind
    for key in unclear:
        # alpha, dora_scale and the like belong to the module whose other tensors told what it is.
        if key.rpartition(".")[0] not in kinds:
            kinds[key] = "unknown"
    return kinds


def describe(keys: Iterable[str]) -> str:
    """What a file without LoKr is, in a few words."""
    keys = list(keys)
    if not keys:
        return "no tensors at all"
    known = Counter(kind for kind in other_kinds(keys).values() if kind != "unknown")
    if known:
        return ", ".join(f"{count} modules of {kind}" for kind, count in known.items())
    for marks, what in WHOLE_FILES:
        if any(mark in key if mark[-1] in "._" else mark == key for key in keys for mark in marks):
            return what
    return f"{len(keys)} tensors such as {', '.join(keys[:3])}"
