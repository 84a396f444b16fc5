"""What LoKr Train learns from: pictures as latents in buckets of one size, and a conditioning for each."""

from __future__ import annotations

from dataclasses import dataclass

import comfy.sampler_helpers
import comfy.samplers
import torch
from comfy.sample import fix_empty_latent_channels
from comfy_extras import nodes_train
from torch import Tensor

from ..lokr_core.errors import LoKrValueError

# What a conditioning may hold that ComfyUI's samplers read: with any of these it has a call of the model to itself.
_ALONE = {"area", "mask", "control", "gligen", "hooks", "strength", "timestep_start", "timestep_end"}


@dataclass(frozen=True)
class Bucket:
    """Pictures of one size: latents (n, channels, …, height, width), and each one's conditioning, as nodes hold it."""

    latents: Tensor
    conditioning: list


@dataclass(frozen=True)
class Pictures:
    """The pictures of a training, in buckets by size."""

    buckets: list[Bucket]

    def __len__(self) -> int:
        return sum(len(bucket.latents) for bucket in self.buckets)

    @classmethod
    def of(cls, patcher, latents: list[dict], positive: list[list]) -> Pictures:
        """Latents and conditioning as core's Train LoRA takes them: lists, in any number of batches.

        Raises LoKrValueError if there are none, their numbers differ, or a latent is not finite or another model's.
        """
        pictures = [one for latent in latents for one in _samples(patcher, latent)]
        prompts = [entry for conditioning in positive for entry in conditioning]
        if not pictures:
            raise LoKrValueError(
                "There are no pictures to train on", expected="at least one latent", found=0, hint="check their folder"
            )
        if len(prompts) == 1:
            prompts *= len(pictures)
        if len(prompts) != len(pictures):
            raise LoKrValueError(
                "The numbers of pictures and conditionings differ",
                expected=f"{len(pictures)} conditionings, or one for all pictures",
                found=len(prompts),
                hint="give each picture its prompt, in the same order",
            )
        sizes: dict[torch.Size, list[int]] = {}
        for number, picture in enumerate(pictures):
            sizes.setdefault(picture.shape, []).append(number)
        return cls([Bucket(torch.stack([pictures[n] for n in of]), [prompts[n] for n in of]) for of in sizes.values()])


def _samples(patcher, latent: dict) -> list[Tensor]:
    """The pictures of one LATENT, each (channels, …, height, width)."""
    samples = latent["samples"]
    if getattr(samples, "is_nested", False):
        raise LoKrValueError("Latents of several kinds in one cannot be trained on", expected="one tensor")
    samples = fix_empty_latent_channels(patcher, samples)
    channels = patcher.model.latent_format.latent_channels
    if samples.ndim < 3 or samples.shape[1] != channels:
        raise LoKrValueError(
            "These latents are of another model",
            expected=f"{channels} channels",
            found=tuple(samples.shape),
            hint="encode the pictures with this model's VAE",
        )
    if not torch.isfinite(samples).all():
        raise LoKrValueError("A latent holds NaN or Inf", found=tuple(samples.shape), hint="encode the picture again")
    return [sample.float().clone() for sample in samples]


@dataclass(frozen=True)
class Prepared:
    """A bucket on the model's device, in its scale, with the conditionings as the model takes them."""

    latents: Tensor
    conds: list[dict]

    @classmethod
    def of(cls, bucket: Bucket, guider, device: torch.device, seed: int) -> Prepared:
        """guider: holds the model; its ``process_conds`` needs the pictures' size, so each bucket has its own."""
        model, latents = guider.inner_model, bucket.latents.to(device)
        if torch.count_nonzero(latents):  # as samplers do
            latents = model.process_latent_in(latents)
        return cls(latents, conds_of(guider, {"positive": bucket.conditioning}, latents, device, seed)["positive"])

    def batch(self, numbers: list[int]) -> list[tuple[list[int], dict]]:
        """The pictures ``numbers`` and their conditioning, together if their conditionings can be one."""
        conds = [self.conds[number] for number in numbers]
        merged = _merged(conds)
        alone = [([number], cond) for number, cond in zip(numbers, conds, strict=True)]
        return alone if merged is None else [(numbers, merged)]


def conds_of(guider, conditioning: dict[str, list], latents: Tensor, device: torch.device, seed: int) -> dict:
    """Conditioning by role, as ComfyUI's samplers give it to the model, in normal tensors."""
    converted = {role: comfy.sampler_helpers.convert_cond(each) for role, each in conditioning.items()}
    shapes = [latents[:1].shape]
    conds = comfy.samplers.process_conds(
        guider.inner_model, latents[:1], converted, device, latents[:1], None, seed, latent_shapes=shapes
    )
    return nodes_train.process_cond_list(conds)


def _merged(conds: list[dict]) -> dict | None:
    """One conditioning for a batch; None if the model has to be called with each alone.

    ComfyUI calls the model with the whole batch for each conditioning in its list, and takes the mean.
    """
    first, others = conds[0], conds[1:]
    if all(other is first for other in others):
        return first
    own, rest = first["model_conds"], [other["model_conds"] for other in others]
    if any(_ALONE & cond.keys() for cond in conds) or any(each.keys() != own.keys() for each in rest):
        return None
    if not all(value.can_concat(each[key]) for key, value in own.items() for each in rest):
        return None
    merged = {key: value._copy_with(value.concat([each[key] for each in rest])) for key, value in own.items()}
    return {**first, "model_conds": merged}
