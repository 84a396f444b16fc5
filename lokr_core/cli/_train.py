"""``lokr train``: a LoKr for a folder of pictures, on a small model that is made on the spot."""

from __future__ import annotations

import argparse

import torch

from .. import get_lokr_model
from ..errors import LoKrValueError
from ..peft import LoKrConfig
from ..training import (
    FLUX_TARGETS,
    FLUX_WIDTH,
    Trained,
    add_arguments,
    flow_matching_loss,
    latents_of,
    load_pictures,
    prompt_embedding,
    run,
    save_for_comfyui,
    small_flux,
)

BASE_NAME = "base.safetensors"


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``lokr train``."""
    parser.add_argument("folder", metavar="FOLDER", help="pictures; a text file of the same name is a caption")
    add_arguments(parser, "lokr-training", format="comfyui")
    parser.add_argument(
        "--size", type=int, default=64, help="pixels of a picture's side, a multiple of 16 (%(default)s)"
    )
    parser.add_argument("--rank", type=int, default=8, help="r of LoKrConfig (%(default)s)")
    parser.add_argument("--alpha", type=float, default=16, help="scaling is alpha / rank (%(default)s)")
    parser.add_argument("--factor", type=int, default=-1, help="decompose_factor of LoKrConfig (%(default)s)")


def train_on_pictures(options: argparse.Namespace) -> Trained | None:
    """Train as the options of ``add_train_arguments`` say; returns None in every process but the first.

    Writes the adapter, and the model itself under the names that ComfyUI reads, to ``options.out``. Raises LoKrError
    if an option is out of range, a picture cannot be read or the folder cannot be written.
    """
    if options.size < 16 or options.size % 16:
        raise LoKrValueError("--size must be a multiple of 16", expected="16, 32, 48, ...", found=options.size)
    pictures, captions = load_pictures(options.folder, options.size)
    config = LoKrConfig(options.rank, options.alpha, decompose_factor=options.factor, target_modules=FLUX_TARGETS)
    base = small_flux()
    torch.manual_seed(options.seed)
    loss_of = flow_matching_loss(latents_of(pictures), prompt_embedding(captions, FLUX_WIDTH))
    options.out.mkdir(parents=True, exist_ok=True)
    save_for_comfyui(base, options.out / BASE_NAME)
    return run(get_lokr_model(base, config), loss_of, len(pictures), options)
