"""``lokr train``: a LoKr for a diffusion model and a folder of pictures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from ..diffusion import PREDICTIONS, TIMES, FinetuneOptions, Finetuning
from ..display import Progress, progress_bar
from ..peft import LoKrConfig
from ..training import accelerator_for
from ..tuner import get_lokr_model
from ._training import Trained, add_arguments, run

_DEFAULTS: dict[str, Any] = dict(steps=2000, learning_rate=1e-4, save_every=250, clip=1.0, weight_decay=0.01)


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``lokr train``."""
    parser.add_argument("model", metavar="MODEL", help="folder of a diffusers pipeline, or a .safetensors checkpoint")
    parser.add_argument("pictures", metavar="PICTURES", help="folder; a text file of the same name is a caption")
    add_arguments(parser, "lokr-training", **_DEFAULTS)
    _add_data(parser.add_argument_group("pictures and captions"))
    _add_adapter(parser.add_argument_group("adapter"))
    _add_loss(parser.add_argument_group("loss"))


def _add_data(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--config", metavar="FOLDER", help="of a single file: configuration and tokenizers (default: from the hub)"
    )
    group.add_argument("--size", type=int, default=1024, help="a picture has SIZE x SIZE pixels or so (%(default)s)")
    group.add_argument("--caption", default="", metavar="TEXT", help="of pictures without a text file")
    group.add_argument(
        "--caption-dropout", type=float, default=0.0, metavar="P", help="leave out captions with this probability"
    )
    group.add_argument("--cache", type=Path, metavar="DIR", help="for latents and text embeddings (default: OUT/cache)")
    group.add_argument("--sample", action="append", default=[], metavar="PROMPT", help="paint it (may be repeated)")
    group.add_argument("--sample-every", type=int, default=250, metavar="N", help="steps (%(default)s)")
    group.add_argument("--sample-steps", type=int, default=20, metavar="N", help="of a painting (%(default)s)")


def _add_adapter(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--rank", type=int, default=16, help="r of LoKrConfig (%(default)s)")
    group.add_argument("--alpha", type=float, default=16, help="scaling is alpha / rank (%(default)s)")
    group.add_argument("--factor", type=int, default=8, help="size of W1; -1: the most balanced (%(default)s)")
    group.add_argument("--full-matrix", action="store_true", help="both factors whole, whatever the rank")
    group.add_argument("--decompose-both", action="store_true", help="W1 is low-rank too")
    group.add_argument("--dora", choices=("out", "in"), help="train a magnitude for each row or column as well")
    group.add_argument("--rank-dropout", type=float, default=0.0, metavar="P", help="of rows (%(default)s)")
    group.add_argument("--module-dropout", type=float, default=0.0, metavar="P", help="of layers (%(default)s)")
    group.add_argument("--targets", metavar="REGEX", help="of names such as unet.mid_block.attentions.0.proj_in")
    group.add_argument("--convolutions", action="store_true", help="of a UNet, its 3 x 3 convolutions too")
    group.add_argument("--text-encoders", action="store_true", help="CLIP's layers too")
    group.add_argument("--checkpointing", action="store_true", help="compute blocks twice, to save memory")


def _add_loss(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--prediction", choices=PREDICTIONS, help="SD, SDXL (default: the model's)")
    group.add_argument("--snr-gamma", type=float, default=0.0, help="SD, SDXL: of Min-SNR, such as 5; 0: off")
    group.add_argument("--times", choices=TIMES, default=TIMES[0], help="SD3, Flux (%(default)s)")
    group.add_argument("--times-mean", type=float, default=0.0, help="of the logit-normal times (%(default)s)")
    group.add_argument("--times-deviation", type=float, default=1.0, help="likewise (%(default)s)")
    group.add_argument("--shift", type=float, help="SD3, Flux: of the times (default: the model's)")
    group.add_argument("--guidance", type=float, default=1.0, help="that Flux is told in training (%(default)s)")


def train_on_pictures(options: argparse.Namespace) -> Trained | None:
    """Train as the options of ``add_train_arguments`` say; returns None in every process but the first.

    Writes the adapter to ``options.out``. Raises LoKrError if an option is out of range, a package is not installed,
    the model or a picture cannot be read or the folder cannot be written.
    """
    accelerator = accelerator_for(options.precision, bool(options.module_dropout))
    tuning = Finetuning(_finetune_options(options), accelerator, _bar if accelerator.is_main_process else None)

    def painted(done: int, total: int) -> None:
        if done % options.sample_every == 0 or done == total:
            tuning.sample(options.out, done, accelerator.is_main_process)

    torch.manual_seed(options.seed)
    return run(
        get_lokr_model(tuning.learner, tuning.lokr),
        tuning.loss_of,
        len(tuning.pictures),
        options,
        accelerator=accelerator,
        after=painted,
        buckets=tuning.buckets,
        identity=tuning.identity,
    )


def _bar(what: str) -> Progress:
    """A progress bar that ends with its last call."""
    bar = progress_bar(what, "")
    show = bar.__enter__()

    def shown(done: int, total: int) -> None:
        show(done, total)
        if done == total:
            bar.__exit__(None, None, None)

    return shown


def _finetune_options(options: argparse.Namespace) -> FinetuneOptions:
    same = ["model", "pictures", "config", "caption", "size", "precision", "convolutions", "text_encoders", "seed"]
    same += ["checkpointing", "caption_dropout", "prediction", "snr_gamma", "times", "shift", "guidance"]
    same += ["sample_steps"]
    lokr = LoKrConfig(
        options.rank,
        options.alpha,
        decompose_factor=options.factor,
        full_matrix=options.full_matrix,
        decompose_both=options.decompose_both,
        dora=options.dora,
        rank_dropout=options.rank_dropout,
        module_dropout=options.module_dropout,
        target_modules=options.targets,
    )
    return FinetuneOptions(
        **{name: getattr(options, name) for name in same},
        cache=options.cache or options.out / "cache",
        lokr=lokr,
        mean=options.times_mean,
        deviation=options.times_deviation,
        samples=tuple(options.sample),
    )
