"""``lokr train``: a LoKr for a folder of pictures, on a small model that is made on the spot."""

from __future__ import annotations

import argparse

import torch

from .. import training
from .._files import save_tensors
from ..errors import LoKrValueError
from ..peft import LoKrConfig
from ..tuner import get_lokr_model
from ._training import Trained, add_arguments, run


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

    Writes the adapter and the model itself, in diffusers' names, to ``options.out``. Raises LoKrError
    if an option is out of range, a picture cannot be read or the folder cannot be written.
    """
    if options.size < 16 or options.size % 16:
        raise LoKrValueError("--size must be a multiple of 16", expected="16, 32, 48, ...", found=options.size)
    pictures, captions = training.load_pictures(options.folder, options.size)
    rank, alpha, factor = options.rank, options.alpha, options.factor
    config = LoKrConfig(rank, alpha, decompose_factor=factor, target_modules=training.FLUX_TARGETS)
    base = training.small_flux()
    torch.manual_seed(options.seed)
    latents = training.latents_of(pictures)
    prompts = training.prompt_embedding(captions, base.config.joint_attention_dim)
    options.out.mkdir(parents=True, exist_ok=True)
    save_tensors(base.state_dict(), options.out / "base.safetensors")
    loss_of = training.flow_matching_loss(latents, prompts)
    return run(get_lokr_model(base, config), loss_of, len(pictures), options)
