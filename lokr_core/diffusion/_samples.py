"""Pictures that the model paints while it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .._files import replacing
from ..training import needed
from ._family import Family
from ._latents import decode
from ._learner import Learner
from ._predict import unpacked
from ._source import Source

FOLDER = "samples"


class Sampler:
    """Paints the prompts with the learner's denoiser, by diffusers' own pipeline.

    size: of the pictures' sides; steps: of the pipeline's scheduler
    """

    def __init__(self, source: Source, size: int, steps: int, seed: int):
        self._source, self._size, self._steps, self._seed = source, size, steps, seed
        self._vae, self._scheduler = source.component("vae"), source.component("scheduler")

    @torch.no_grad()
    def paint(self, learner: Learner, texts: Sequence[Mapping[str, Tensor]], nothing: Mapping[str, Tensor]) -> list:
        """A picture for each prompt's embeddings (1, …); nothing: those of "". torch's random state is left alone."""
        was_training = learner.training
        learner.eval()
        device = learner.denoiser.device
        pipeline = self._pipeline(learner)
        self._vae.to(device)
        pictures = []
        try:
            for text in texts:
                generator = torch.Generator("cpu").manual_seed(self._seed)
                options = dict(height=self._size, width=self._size, num_inference_steps=self._steps)
                latents = pipeline(
                    **_inputs(self._source.family, text, nothing), **options, generator=generator, output_type="latent"
                ).images
                pictures.append(self._picture(latents))
        finally:
            self._vae.to("cpu")
            learner.train(was_training)
        return pictures

    def _pipeline(self, learner: Learner) -> Any:
        diffusers, family = needed("diffusers", "0.42"), self._source.family
        encoders = {name: None for each in family.encoders for name in (each.name, each.tokenizer)}
        parts = {family.denoiser: learner.denoiser, "vae": self._vae, "scheduler": self._scheduler}
        if family.pipeline == "StableDiffusionPipeline":
            parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipeline = getattr(diffusers, family.pipeline)(**encoders, **parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _picture(self, latents: Tensor) -> Image.Image:
        if latents.ndim == 3:  # Flux' tokens
            side = self._size // 2 ** (len(self._vae.config.block_out_channels) - 1)
            latents = unpacked(latents, side, side)
        pixels = (decode(self._vae, latents)[0] + 1) * 127.5  # (3, height, width)
        return Image.fromarray(pixels.round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())


def _inputs(family: Family, text: Mapping[str, Tensor], nothing: Mapping[str, Tensor]) -> dict[str, Any]:
    """The pipeline's arguments for a prompt."""
    found: dict[str, Any] = {"prompt_embeds": text["prompt"], "guidance_scale": family.guidance}
    if "pooled" in text:
        found["pooled_prompt_embeds"] = text["pooled"]
    if family.pipeline != "FluxPipeline":  # which has its guidance as an input
        found["negative_prompt_embeds"] = nothing["prompt"]
        if "pooled" in text:
            found["negative_pooled_prompt_embeds"] = nothing["pooled"]
    return found


def write(pictures: Sequence[Image.Image], out: Path, step: int) -> None:
    """Write them as ``samples/STEP-NUMBER.png`` below ``out``."""
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures, 1):
        with replacing(out / FOLDER / f"{step:06d}-{number}.png") as temporary:
            picture.save(temporary, "PNG")
