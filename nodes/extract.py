"""The node that writes the LoKr that turns one model into another."""

from __future__ import annotations

import comfy.lora
import folder_paths
import torch
from comfy_api.latest import io

from ..lokr_core.checkpoints import Checkpoint, HeldCheckpoint
from ..lokr_core.errors import LoKrValueError
from ..lokr_core.tools import EXTRACT_FACTORS, OTHERWISE, Extraction, extract
from .inputs import CATEGORY
from .loaded import loaded_on
from .weights import unpatched_weight
from .written import KEPT, REPORT, energy_input, keep_of, path_for, prefix_input, progress_on_node, rank_input, written

NONE, ALL, WHOLE = "none", "all", "whole"
FOLDERS = ("diffusion_models", "checkpoints")
_FACTORS = {ALL: EXTRACT_FACTORS, "balanced": (-1,), "4": (4,), "8": (8,), "16": (16,)}
_PREFIX = "diffusion_model."


def tuned_names() -> list[str]:
    """The model files that ComfyUI offers, after "none"."""
    return [NONE, *(f"{folder}/{name}" for folder in FOLDERS for name in folder_paths.get_filename_list(folder))]


def _factors() -> list[io.Input]:
    return [
        io.Combo.Input(
            "factor",
            options=list(_FACTORS),
            default=ALL,
            tooltip="Of the first factor. all: the one with the fewest numbers that keeps 0.99 of the best.",
        ),
        io.Combo.Input(
            "second_factor",
            options=[WHOLE, "low-rank"],
            default=WHOLE,
            tooltip="whole: all of it. low-rank: as rank or energy say.",
        ),
    ]


def _advanced() -> list[io.Input]:
    """The inputs that few need."""
    return [
        io.Boolean.Input(
            "dora",
            default=False,
            optional=True,
            advanced=True,
            tooltip="Look for DoRA: row norms that were trained apart.",
        ),
        io.Float.Input(
            "min_energy",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            optional=True,
            advanced=True,
            tooltip="A layer of which a LoKr keeps less is written as otherwise says.",
        ),
        io.Combo.Input(
            "otherwise",
            options=list(OTHERWISE),
            default=OTHERWISE[0],
            optional=True,
            advanced=True,
            tooltip="What becomes of layers below min_energy: a LoRA, or nothing.",
        ),
    ]


class LoKrExtract(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoKrExtract",
            display_name="LoKr Extract",
            category=CATEGORY,
            description="Writes the LoKr that turns a base model into a fine-tuned one, the nearest for each layer.",
            search_aliases=["lokr", "extract lora", "extract lokr", "checkpoint to lora", "model difference"],
            inputs=[
                io.Model.Input("base", tooltip="The model before training."),
                io.Model.Input(
                    "tuned", optional=True, tooltip="The model after training, with what other nodes patched into it."
                ),
                io.Combo.Input(
                    "tuned_file",
                    options=tuned_names(),
                    default=NONE,
                    optional=True,
                    tooltip="A file of the model after training, if tuned is not connected.",
                ),
                *_factors(),
                rank_input("the second factor, if it is low-rank"),
                energy_input(),
                prefix_input("loras/extracted"),
                *_advanced(),
            ],
            outputs=[REPORT, KEPT],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        base,
        factor,
        second_factor,
        rank,
        energy,
        filename_prefix,
        tuned=None,
        tuned_file=NONE,
        dora=False,
        min_energy=0.0,
        otherwise=OTHERWISE[0],
    ) -> io.NodeOutput:
        keep = None if second_factor == WHOLE else keep_of(rank, energy)
        extraction = Extraction("kohya", _FACTORS[factor], keep, dora, min_energy, otherwise)
        path = path_for(filename_prefix)
        found = extract(_held(base, "base"), _tuned(tuned, tuned_file), path, extraction, None, progress_on_node())
        return written(cls, found, path)


def _tuned(tuned, tuned_file: str) -> HeldCheckpoint:
    if tuned is not None:
        if loaded_on(tuned) and not tuned.patches:
            raise LoKrValueError(
                "The adapters on the tuned model are live: they are not in its weights",
                expected="adapters that are merged",
                hint="choose merge as the mode of the loaders before this node",
            )
        return _held(tuned, "tuned")
    if tuned_file == NONE:
        raise LoKrValueError("There is no tuned model", expected="a model at tuned, or a file at tuned_file")
    folder, _, name = tuned_file.partition("/")
    stored = Checkpoint.of(folder_paths.get_full_path_or_raise(folder, name)).tensors
    # A checkpoint's denoiser is below model.diffusion_model., a diffusion model's file may have no prefix at all.
    named = {key.removeprefix("model."): one for key, one in stored.items()}
    if not any(key.startswith(_PREFIX) for key in named):
        named = {_PREFIX + key: one for key, one in named.items()}
    shapes = {key: one.info.shape for key, one in named.items() if key.startswith(_PREFIX)}
    return HeldCheckpoint.of(name, shapes, lambda key: named[key].read().float())


def _held(patcher, name: str) -> HeldCheckpoint:
    """A MODEL's weights with ComfyUI's patches, one at a time."""
    shapes = {key: tuple(weight.shape) for key, weight in patcher.model.named_parameters() if key.startswith(_PREFIX)}

    def make(key: str) -> torch.Tensor:
        weight = unpatched_weight(patcher, key).detach().to("cpu", torch.float32, copy=True)
        patches = patcher.patches.get(key)
        return comfy.lora.calculate_weight(patches, weight, key) if patches else weight

    return HeldCheckpoint.of(name, shapes, make)
