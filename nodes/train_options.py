"""LoKr Train's inputs, and what they come to."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..lokr_core.errors import LoKrValueError
from ..lokr_core.peft import LoKrConfig
from ..lokr_core.strengths import BlockStrengths
from ..lokr_core.training import OPTIMIZERS, SCHEDULES, TrainSettings
from .bridge import file_of
from .inputs import Blocks
from .train_plan import LOSSES, Sample, TrainPlan

RESUME, START_OVER = "resume", "start over"
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def inputs() -> list[io.Input]:
    """Those that everybody needs, then the connections that may be left out, then those that few need."""
    return [
        io.Model.Input("model", tooltip="The diffusion model to train on. It is not changed."),
        io.Latent.Input("latents", tooltip="The pictures, encoded by the model's VAE: lists, batches, any sizes."),
        io.Conditioning.Input("positive", tooltip="A prompt for each picture in the same order, or one for all."),
        io.String.Input("file_name", default="trained", tooltip="Of the adapter, in the loras folder."),
        _integer("steps", 500, 1, 1_000_000, "In all, those of earlier runs of this file included."),
        _number("learning_rate", 5e-4, 1e-8, 10.0, 1e-6, "After warm_up. Prodigy finds its own: 1."),
        _integer("batch_size", 1, 1, 1024, "Pictures per pass, all of one size."),
        _integer("factor", 8, -1, 1024, "Size of the first factor; -1: the most balanced. Smaller: a larger file."),
        _integer("rank", 16, 1, 4096, "Of the second factor; at half of its size or more it is whole."),
        # Without the page's control after generate: a checkpoint is of one seed.
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**64 - 1,
            control_after_generate=False,
            tooltip="Of the noise, the order and the first values.",
        ),
        _integer("sample_every", 50, 0, 1_000_000, "Steps between two samples on the node. 0: no samples."),
        io.Combo.Input(
            "existing",
            options=[RESUME, START_OVER],
            default=RESUME,
            tooltip="resume: go on from the checkpoint of this file name, if there is one. start over: replace it.",
        ),
        io.Vae.Input("vae", optional=True, tooltip="Decodes the samples. Without it they are rough previews."),
        io.Conditioning.Input("negative", optional=True, tooltip="Of the samples, which have cfg only with it."),
        Blocks.Input("blocks", optional=True, tooltip="Which blocks and layers to train: those of a strength not 0."),
        *_form(),
        *_course(),
    ]


def _form() -> list[io.Input]:
    """Of the adapter."""
    return [
        _number("alpha", 16.0, 0.01, 65536.0, 0.5, "The update is multiplied by alpha / rank.", few=True),
        _switch("full_matrix", False, "Both factors whole, whatever the rank."),
        _switch("decompose_both", False, "The first factor is low-rank too, where the rank is small enough."),
        _switch("dora", False, "Train the norm of each row apart from its direction."),
        _number(
            "rank_dropout", 0.0, 0.0, 0.95, 0.05, "The share of an update's rows that a pass leaves out.", few=True
        ),
    ]


def _course() -> list[io.Input]:
    """Of the training."""
    return [
        _choice("optimizer", OPTIMIZERS, "adamw8bit needs bitsandbytes, prodigy needs prodigyopt."),
        _choice(
            "schedule", SCHEDULES, "Of the learning rate after warm_up: constant, or falling to 0 at the last step."
        ),
        _integer("warm_up", 0, 0, 1_000_000, "Steps in which the learning rate rises.", few=True),
        _integer("accumulation", 1, 1, 1024, "Passes per step, whose gradients are averaged.", few=True),
        _number("clip", 1.0, 0.0, 1000.0, 0.1, "Largest norm of the gradient. 0: any.", few=True),
        _choice("loss", list(LOSSES), "Between the model's picture without noise and the true one."),
        _choice("precision", list(DTYPES), "Of the computation; the adapter itself is fp32."),
        _switch("gradient_checkpointing", True, "Compute blocks twice to keep less in memory."),
        _integer("save_every", 100, 1, 1_000_000, "Steps between two checkpoints.", few=True),
        _integer("sample_steps", 12, 1, 1000, "Of the sampler that paints a sample.", few=True),
        _number("sample_cfg", 5.0, 0.0, 100.0, 0.5, "Of the samples, if negative is connected.", few=True),
    ]


def _integer(name: str, default: int, least: int, most: int, tooltip: str, few: bool = False) -> io.Int.Input:
    return io.Int.Input(name, default=default, min=least, max=most, tooltip=tooltip, optional=few, advanced=few)


def _number(
    name: str, default: float, least: float, most: float, step: float, tooltip: str, few: bool = False
) -> io.Float.Input:
    about = dict(min=least, max=most, step=step, round=False)
    return io.Float.Input(name, default=default, tooltip=tooltip, optional=few, advanced=few, **about)


def _switch(name: str, default: bool, tooltip: str) -> io.Boolean.Input:
    return io.Boolean.Input(name, default=default, tooltip=tooltip, optional=True, advanced=True)


def _choice(name: str, options: list[str] | tuple[str, ...], tooltip: str) -> io.Combo.Input:
    return io.Combo.Input(
        name, options=list(options), default=options[0], tooltip=tooltip, optional=True, advanced=True
    )


@dataclass(frozen=True)
class Options:
    """The inputs but the pictures and prompts, by their names."""

    model: ModelPatcher
    file_name: str
    steps: int
    learning_rate: float
    batch_size: int
    factor: int
    rank: int
    seed: int
    sample_every: int
    existing: str = RESUME
    vae: object = None
    blocks: BlockStrengths | None = None
    alpha: float = 16.0
    full_matrix: bool = False
    decompose_both: bool = False
    dora: bool = False
    rank_dropout: float = 0.0
    optimizer: str = OPTIMIZERS[0]
    schedule: str = SCHEDULES[0]
    warm_up: int = 0
    accumulation: int = 1
    clip: float = 1.0
    loss: str = "MSE"
    precision: str = "bf16"
    gradient_checkpointing: bool = True
    save_every: int = 100
    sample_steps: int = 12
    sample_cfg: float = 5.0

    def plan(self, trainable: list[str], negative: list | None) -> TrainPlan:
        """trainable: the model's modules that can be trained

        Raises LoKrValueError for a number out of range, unknown blocks, or blocks that leave nothing to train."""
        sample = Sample(self.sample_every, self.sample_steps, self.sample_cfg, negative)
        settings = TrainSettings(
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            seed=self.seed,
            save_every=self.save_every,
            accumulate=self.accumulation,
            optimizer=self.optimizer,
            schedule=self.schedule,
            warmup=self.warm_up,
            clip=self.clip,
        )
        config = LoKrConfig(
            r=self.rank,
            alpha=self.alpha,
            decompose_factor=self.factor,
            decompose_both=self.decompose_both,
            full_matrix=self.full_matrix,
            dora="out" if self.dora else None,
            rank_dropout=self.rank_dropout,
            init_weights="lycoris",
            order="lycoris",
        )
        how = self.loss, DTYPES[self.precision], self.gradient_checkpointing, sample
        return TrainPlan(self._modules(trainable), config, settings, *how)

    def _modules(self, found: list[str]) -> list[str]:
        if self.blocks is None:
            return found
        factor_of = self.blocks.over(found)
        chosen = [module for module in found if factor_of(module)]
        if not chosen:
            raise LoKrValueError(
                "The blocks leave nothing to train",
                expected="a block or pattern whose strength is not 0",
                found=f"0 of {len(found)} layers",
            )
        return chosen

    def same(self, pictures: int) -> dict:
        """What a run that goes on from a checkpoint must have in common with it."""
        names = ("seed", "batch_size", "accumulation", "optimizer", "loss", "precision", "factor", "rank", "alpha")
        names += ("full_matrix", "decompose_both", "dora", "rank_dropout")
        model = os.path.basename(file_of(self.model))
        return {"model": model, "pictures": pictures, **{name: getattr(self, name) for name in names}}
