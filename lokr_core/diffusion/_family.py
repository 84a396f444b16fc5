"""The families of models that are trained, a row each: what their pipelines are made of and how they are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ..errors import LoKrFileError
from ._predict import flux, sd, sd3, sdxl
from ._text import Encoder, joined_flux, joined_sd, joined_sd3, joined_sdxl

_UNET = r"unet\.(down_blocks|mid_block|up_blocks)\..+\."
_UNET_LINEAR = _UNET + r"(to_[qkv]|to_out\.0|proj_in|proj_out|ff\.net\.(0\.proj|2))"
_UNET_CONV = _UNET + r"(conv|conv1|conv2|conv_shortcut)"
_JOINT = (
    r"transformer\.(single_)?transformer_blocks\.\d+\."
    r"(attn2?\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)|ff(_context)?\.net\.(0\.proj|2)|proj_mlp|proj_out)"
)


@dataclass(frozen=True)
class Family:
    """A family of models.

    name: for people; pipeline: diffusers' class; denoiser: the component that is trained
    encoders: the text encoders
    joined: their outputs, by encoder -> the embeddings that ``predict`` takes
    predict: (denoiser, noisy latents, times, embeddings, sizes) -> what the denoiser predicts, of the latents' shape
    flow: whether it is trained by flow matching, else by diffusion
    targets: regular expression of the layers that get adapters; convolutions: of those that may as well
    length: tokens of T5's prompt
    guidance: of sample pictures
    """

    name: str
    pipeline: str
    denoiser: str
    encoders: tuple[Encoder, ...]
    joined: Callable[[Mapping[str, Tensor], nn.Module], dict[str, Tensor]]
    predict: Callable[[nn.Module, Tensor, Tensor, Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]
    flow: bool
    targets: str
    guidance: float
    convolutions: str = ""

    @property
    def components(self) -> tuple[str, ...]:
        """The names of the models in its pipeline."""
        return (self.denoiser, "vae", *(encoder.name for encoder in self.encoders))


_FIRST, _SECOND = "text_encoder", "text_encoder_2"

FAMILIES = {
    "sd": Family(
        "Stable Diffusion 1 or 2", "StableDiffusionPipeline", "unet", (Encoder(_FIRST, "last"),),
        joined_sd, sd, False, _UNET_LINEAR, 7.5, _UNET_CONV,
    ),
    "sdxl": Family(
        "Stable Diffusion XL", "StableDiffusionXLPipeline", "unet",
        (Encoder(_FIRST, "penultimate"), Encoder(_SECOND, "penultimate", pooled=True)),
        joined_sdxl, sdxl, False, _UNET_LINEAR, 6.0, _UNET_CONV,
    ),
    "sd3": Family(
        "Stable Diffusion 3", "StableDiffusion3Pipeline", "transformer",
        (
            Encoder(_FIRST, "penultimate", pooled=True),
            Encoder(_SECOND, "penultimate", pooled=True),
            Encoder("text_encoder_3", "last", clip=False, length=256),
        ),
        joined_sd3, sd3, True, _JOINT, 5.0,
    ),
    "flux": Family(
        "Flux.1", "FluxPipeline", "transformer",
        (Encoder(_FIRST, "none", pooled=True), Encoder(_SECOND, "last", clip=False, length=512)),
        joined_flux, flux, True, _JOINT, 3.5,
    ),
}  # fmt: skip


def family_of(pipeline: str, file: object) -> Family:
    """The family of diffusers' pipeline class. Raises LoKrFileError, naming ``file``, for any other class."""
    known = {family.pipeline: family for family in FAMILIES.values()}
    if pipeline not in known:
        raise LoKrFileError(
            "A pipeline of this class cannot be trained", file=file, expected=", ".join(known), found=pipeline
        )
    return known[pipeline]
