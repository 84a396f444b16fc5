"""Pipelines called as a user calls them, over several steps and with guidance, give what the reference weights give."""

from __future__ import annotations

import copy

import pytest
import torch

import lokr_core

diffusers = pytest.importorskip("diffusers", reason="diffusers' pipelines are what is tested here")

from tests.pipelines import lokr_files  # noqa: E402
from tests.pipelines.tiny import build  # noqa: E402


def _noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


_SIZE = dict(height=64, width=64)
_TEXT = dict(prompt_embeds=_noise(1, 9, 40), negative_prompt_embeds=_noise(1, 9, 40) * 0.5)
_POOLED = dict(pooled_prompt_embeds=_noise(1, 24), negative_pooled_prompt_embeds=_noise(1, 24) * 0.5)
_MASKS = dict(prompt_attention_mask=torch.ones(1, 9).bool(), negative_prompt_attention_mask=torch.ones(1, 9).bool())
_SDXL = dict(pooled_prompt_embeds=_noise(1, 20), negative_pooled_prompt_embeds=_noise(1, 20) * 0.5)
_ONE = dict(prompt_embeds=_noise(1, 9, 40))
CALLS: dict[str, dict] = {
    "SD1.5": _TEXT | _SIZE,
    "SDXL": _TEXT | _SDXL | dict(height=128, width=128),
    "SD3": _TEXT | _POOLED | _SIZE,
    "Flux.1": _ONE | dict(pooled_prompt_embeds=_noise(1, 24)) | _SIZE,
    "Flux.2 Klein": _ONE | dict(guidance_scale=1.0) | _SIZE,
    "Qwen-Image": _ONE | dict(prompt_embeds_mask=torch.ones(1, 9).long()) | _SIZE,
    "Wan 2.2": _TEXT | dict(num_frames=5) | _SIZE,
    "Z-Image": dict(prompt_embeds=[_noise(9, 40)], guidance_scale=0.0) | _SIZE,
    "Chroma": _TEXT | _MASKS | _SIZE,
    "LTX-Video": _TEXT | _MASKS | dict(num_frames=9) | _SIZE,
    "Lumina 2": _TEXT | _MASKS | _SIZE,
    "Sana": _TEXT | _MASKS | dict(negative_prompt=None, use_resolution_binning=False, height=256, width=256),
    "PixArt": _TEXT | _MASKS | dict(height=512, width=512, negative_prompt=None, use_resolution_binning=False),
}


def _callable(name: str):
    """The pipeline with what its call needs beyond its models."""
    pipe = build(name)
    if name == "Flux.2 Klein":  # statistics of the latents
        pipe.vae = diffusers.AutoencoderKLFlux2(block_out_channels=(32,) * 4, latent_channels=5)
    if name == "Wan 2.2":  # the tiny model's output has other channels than its input
        torch.manual_seed(0)
        for part in ("transformer", "transformer_2"):
            config = dict(getattr(pipe, part).config) | {"out_channels": 5}
            setattr(pipe, part, diffusers.WanTransformer3DModel.from_config(config).eval())
    return pipe


@pytest.mark.parametrize("name", CALLS)
def test_a_call_gives_what_the_reference_weights_give(name: str, tmp_path) -> None:
    pipe = _callable(name)
    pipe.set_progress_bar_config(disable=True)

    def call(which) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        more = dict(num_inference_steps=2, output_type="latent", generator=generator, return_dict=False)
        return which(**CALLS[name], **more)[0]

    base = call(pipe)
    changes = lokr_files.write(name, "diffusers", pipe, tmp_path / "a.safetensors")
    reference = copy.deepcopy(pipe)
    reference.set_progress_bar_config(disable=True)
    lokr_files.apply(reference, changes)
    expected = call(reference)
    size = expected.abs().max()
    assert (expected - base).abs().max() > 1e-2 * size
    adapters = lokr_core.load_lokr_weights(pipe, tmp_path / "a.safetensors")
    assert (call(pipe) - expected).abs().max() <= 1e-5 * size
    adapters.fuse()
    assert (call(pipe) - expected).abs().max() <= 1e-5 * size
    adapters.delete_adapters("default_0")
    assert torch.equal(call(pipe), base)
