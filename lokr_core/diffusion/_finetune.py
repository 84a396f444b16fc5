"""A diffusion model, a folder of pictures and their loss, ready for adapters and the training loop."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..display import Progress
from ..errors import LoKrValueError
from ..peft import LoKrConfig
from ..training import Batch, needed
from . import _samples as samples
from ._cache import Cache
from ._family import Family
from ._learner import Learner, stacked
from ._objective import Diffusion, FlowMatching, Objective
from ._pictures import Picture, find_pictures
from ._source import source_of
from ._text import Encoder

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class FinetuneOptions:
    """What is trained on what, and how its error is measured.

    model, config: as for ``source_of``
    pictures: a folder; caption: of those without a text file
    cache: folder for latents and text embeddings
    size: a picture has about as many pixels as a square of this side
    precision: "fp32", "fp16" or "bf16"; the frozen weights are stored in it
    lokr: the adapters; without ``target_modules``, of the family's layers
    convolutions: whether a UNet's convolutions get adapters too
    text_encoders: whether the CLIPs get adapters too
    checkpointing: whether the backward pass computes blocks again instead of keeping what they computed
    caption_dropout: probability that a caption is left out
    prediction, snr_gamma: of ``Diffusion``; prediction None: the model's own
    times, mean, deviation, shift: of ``FlowMatching``
    guidance: what a distilled Flux is told
    samples: prompts that are painted; sample_steps: the pipeline's
    """

    model: str | os.PathLike
    pictures: str | os.PathLike
    cache: Path
    config: str | os.PathLike | None = None
    caption: str = ""
    size: int = 1024
    precision: str = "fp32"
    lokr: LoKrConfig = field(default_factory=LoKrConfig)
    convolutions: bool = False
    text_encoders: bool = False
    checkpointing: bool = False
    caption_dropout: float = 0.0
    prediction: str | None = None
    snr_gamma: float = 0.0
    times: str = "logit-normal"
    mean: float = 0.0
    deviation: float = 1.0
    shift: float | None = None
    guidance: float = 1.0
    samples: tuple[str, ...] = ()
    sample_steps: int = 20
    seed: int = 0

    def __post_init__(self):
        if not 0 <= self.caption_dropout < 1:
            raise LoKrValueError(
                "caption_dropout must be a probability", expected="0 <= p < 1", found=self.caption_dropout
            )


class Finetuning:
    """A model to train, its pictures and its loss; the latents and text embeddings are cached when it is made.

    learner: the model, in which ``get_lokr_model`` puts the adapters
    lokr: the configuration of the adapters

    accelerator: where and in how many processes to compute; progress: (what is computed) -> a progress bar

    Raises LoKrError if a package is not installed, LoKrFileError if the model or a picture cannot be read,
    LoKrValueError if an option is out of range.
    """

    def __init__(self, options: FinetuneOptions, accelerator: Any, progress: Callable[[str], Progress] | None = None):
        self._options, self._device = options, accelerator.device
        self._source = source_of(options.model, options.config)
        family, dtype = self.family, _DTYPES[options.precision]
        self.pictures: list[Picture] = find_pictures(options.pictures, options.size, options.caption)
        trained = tuple(each for each in family.encoders if options.text_encoders and each.clip)
        frozen = tuple(each for each in family.encoders if each not in trained)
        self._cache = Cache(options.cache, self._source, frozen, dtype)
        captions = {picture.caption for picture in self.pictures} | set(options.samples)
        rank, count = accelerator.process_index, accelerator.num_processes
        self._cache.fill(self.pictures, captions | {""}, self._device, rank, count, progress)
        accelerator.wait_for_everyone()
        self._tokenizers = {each: self._source.component(each.tokenizer) for each in trained}
        self._objective = self._make_objective()
        encoders = {each: self._source.component(each.name, dtype) for each in trained}
        learner = Learner(family, self._source.component(family.denoiser, dtype), encoders)
        if options.checkpointing:
            learner.checkpoint_gradients()
        self.learner, self.lokr = learner, self._with_targets(encoders)
        self._sampler = samples.Sampler(self._source, options.size, options.sample_steps, options.seed)

    @property
    def family(self) -> Family:
        return self._source.family

    @property
    def buckets(self) -> list[tuple[int, int]]:
        """The (height, width) of each picture."""
        return [picture.bucket for picture in self.pictures]

    @property
    def identity(self) -> dict[str, Any]:
        """What a training that is resumed must have in common with this one."""
        options = self._options
        model = [entry[:2] for entry in self._source.stamp((self.family.denoiser,))]
        pictures = [[picture.path.name, picture.caption, picture.bucket] for picture in self.pictures]
        lokr = {name: value for name, value in self.lokr.to_dict().items() if value not in (None, False, {}, "")}
        return {
            "model": f"{self.family.name} {_digest(model)}",
            "pictures": _digest(pictures),
            "lokr": _digest(lokr),
            "precision": options.precision,
            "objective": _digest([*self._objective.settings(), options.guidance]),
            "caption_dropout": options.caption_dropout,
        }

    def loss_of(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean weighted square error of the model's predictions for a batch of one bucket."""
        device = self._device
        pictures = [self.pictures[index] for index in batch.indices]
        means, deviations = zip(*map(self._cache.latents, pictures), strict=True)
        mean = torch.stack(means)  # (n, channels, h, w)
        question = self._objective(mean + torch.stack(deviations) * batch.randn(*mean.shape[1:]), batch)
        captions = self._captions(pictures, batch)
        inputs = self._texts(captions)
        sizes = self._sizes(torch.tensor([picture.ids for picture in pictures]))
        predicted = model(question.noisy.to(device), question.times.to(device), *inputs, sizes)
        errors = (predicted - question.target.to(device)).square().flatten(1).mean(1)  # (n,)
        return (errors * question.weights.to(device)).mean()

    def sample(self, out: Path, step: int, write: bool) -> None:
        """Paint the prompts into ``out``/samples. Every process has to call it; ``write``: whether this one writes."""
        if not self._options.samples:
            return
        learner = self.learner
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []), torch.no_grad():
            nothing, *texts = (learner.embeddings(*self._texts([text])) for text in ("", *self._options.samples))
            pictures = self._sampler.paint(learner, texts, nothing)
        if write:
            samples.write(pictures, out, step)

    def _captions(self, pictures: list[Picture], batch: Batch) -> list[str]:
        captions = [picture.caption for picture in pictures]
        if not self._options.caption_dropout:
            return captions
        kept = (batch.rand() >= self._options.caption_dropout).tolist()
        return [caption if keep else "" for caption, keep in zip(captions, kept, strict=True)]

    def _texts(self, captions: list[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(outputs of the frozen encoders, tokens for the trained ones)."""
        outputs = stacked([self._cache.text(caption) for caption in captions], self._device)
        tokens = {each.name: each.tokens(t, captions).to(self._device) for each, t in self._tokenizers.items()}
        return outputs, tokens

    def _sizes(self, ids: Tensor) -> dict[str, Tensor]:
        """ids: (n, 6)"""
        guidance = torch.full((len(ids),), self._options.guidance)
        return {"ids": ids.to(self._device), "guidance": guidance.to(self._device)}

    def _make_objective(self) -> Objective:
        options, scheduler = self._options, self._source.component("scheduler")
        if self.family.flow:
            return FlowMatching(scheduler, options.times, options.mean, options.deviation, options.shift)
        scheduler = needed("diffusers", "0.42").DDPMScheduler.from_config(scheduler.config)
        return Diffusion(scheduler, options.prediction or scheduler.config.prediction_type, options.snr_gamma)

    def _with_targets(self, encoders: dict[Encoder, Any]) -> LoKrConfig:
        """The configuration, with the layers that get adapters."""
        family, options = self.family, self._options
        if options.lokr.target_modules is not None:
            return options.lokr
        targets = [family.targets]
        targets += [family.convolutions] if options.convolutions and family.convolutions else []
        targets += [each.targets(model.config.num_hidden_layers) for each, model in encoders.items()]
        return replace(options.lokr, target_modules="|".join(f"({target})" for target in targets))


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
