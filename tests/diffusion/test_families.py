"""A family's denoiser is given what diffusers' own pipeline gives it; targets and weights are the papers'."""

from __future__ import annotations

import math

import pytest
import torch

from lokr_core import LoKrValueError
from lokr_core.diffusion import Diffusion, FlowMatching
from lokr_core.diffusion._family import FAMILIES
from lokr_core.diffusion._latents import decode, encode
from lokr_core.diffusion._learner import Learner
from lokr_core.training import Batch

diffusers = pytest.importorskip("diffusers", reason="NO DIFFUSERS HERE: its pipelines are the expected values")
pytest.importorskip("transformers", reason="NO TRANSFORMERS HERE: it makes the text encoders")

from tests.diffusion import tiny_pipelines as tiny  # noqa: E402

CAPTIONS = ["a red house", "blue style of a picture"]


def batch(count: int = 3) -> Batch:
    return Batch(0, list(range(count)), list(range(count)), seed=1)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@torch.no_grad()
def test_the_denoiser_is_given_what_the_pipeline_gives_it(family):
    """The inputs of the denoiser in a step of the pipeline, and in a call of the learner, are the same."""
    pipe, row = tiny.pipeline(family), FAMILIES[family]
    denoiser = getattr(pipe, row.denoiser)
    asked = []
    denoiser.register_forward_pre_hook(lambda module, args, kwargs: asked.append((args, kwargs)), with_kwargs=True)
    pipe.set_progress_bar_config(disable=True)
    latents = torch.randn(2, 4 if family in ("sd", "sdxl") else 16, 8, 8)
    given = latents
    if family == "flux":
        given = pipe._pack_latents(latents, 2, 16, 8, 8)
    size = dict(height=8 * pipe.vae_scale_factor, width=8 * pipe.vae_scale_factor)
    tokens = {} if family in ("sd", "sdxl") else {"max_sequence_length": 24}
    pipe(CAPTIONS, **size, **tokens, num_inference_steps=1, guidance_scale=1.0, latents=given, output_type="latent")
    encoders = {encoder: getattr(pipe, encoder.name) for encoder in row.encoders}
    tokens = {each.name: each.tokens(getattr(pipe, each.tokenizer), CAPTIONS) for each in encoders}
    learner = Learner(row, denoiser, encoders)
    noisy, time = latents, pipe.scheduler.timesteps[:1].expand(2)
    if family in ("sd", "sdxl"):
        noisy = latents * pipe.scheduler.init_noise_sigma
    high, wide = size["height"], size["width"]
    sizes = {"ids": torch.tensor([[high, wide, 0, 0, high, wide]] * 2), "guidance": torch.ones(2)}
    predicted = learner(noisy, time, {}, tokens, sizes)
    assert predicted.shape == latents.shape
    (args, kwargs), (own_args, own_kwargs) = asked[-2:]
    assert_same(own_args, args)
    for name, value in own_kwargs.items():
        assert_same(value, kwargs[name], name)
    left = {name for name, value in kwargs.items() if value is not None and name not in own_kwargs}
    assert left <= {"return_dict", "cross_attention_kwargs", "joint_attention_kwargs", "skip_layers"}


def assert_same(found, expected, name: str = "") -> None:
    if isinstance(expected, torch.Tensor):
        assert torch.allclose(found.float(), expected.float().expand_as(found), atol=1e-5), name
    elif isinstance(expected, (tuple, list)):
        for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            assert_same(ours, theirs, f"{name}{number}")
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(found[key], value, key)
    else:
        assert found == expected, name


@pytest.mark.parametrize("config", [{}, {"shift_factor": 0.2}, {"latents_mean": [0.1] * 4, "latents_std": [2.0] * 4}])
@torch.no_grad()
def test_latents_are_scaled_as_a_denoiser_sees_them(config):
    vae = tiny.vae(4, scaling_factor=0.5, **config)
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    mean, deviation = encode(vae, pixels)
    given = vae.encode(pixels).latent_dist
    shift, scale = config.get("shift_factor", 0.0), 0.5
    if "latents_mean" in config:
        shift, scale = 0.1, 0.25
    assert torch.allclose(mean, (given.mean - shift) * scale, atol=1e-6)
    assert torch.allclose(deviation, given.std * scale, atol=1e-6)
    assert torch.allclose(decode(vae, mean), vae.decode(given.mean).sample.clamp(-1, 1), atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_from_the_answer_the_clean_latents_follow(prediction):
    """By the definition of each: x = (x_t - σ ε) / α, and x = α x_t - σ v."""
    scheduler = diffusers.DDPMScheduler()
    clean = torch.randn(3, 4, 2, 2)
    question = Diffusion(scheduler, prediction)(clean, batch())
    kept = scheduler.alphas_cumprod[question.times].view(-1, 1, 1, 1)
    alpha, sigma = kept.sqrt(), (1 - kept).sqrt()
    if prediction == "epsilon":
        found = (question.noisy - sigma * question.target) / alpha
    else:
        found = alpha * question.noisy - sigma * question.target
    assert torch.allclose(found, clean, atol=1e-3) and torch.equal(question.weights, torch.ones(3))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr_weighs_the_error_in_the_clean_latents(prediction):
    """An error e of the answer is an error e σ/α (ε) or e σ (v) of the clean latents, which weighs min(SNR, γ)."""
    scheduler = diffusers.DDPMScheduler()
    question = Diffusion(scheduler, prediction, snr_gamma=5.0)(torch.randn(3, 4, 2, 2), batch())
    kept = scheduler.alphas_cumprod[question.times]
    snr = kept / (1 - kept)
    into_clean = (1 - kept) / kept if prediction == "epsilon" else 1 - kept
    assert torch.allclose(question.weights, into_clean * snr.clamp(max=5.0), rtol=1e-4)


def test_flow_matching_goes_from_the_latents_to_noise_in_straight_lines():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    clean = torch.randn(3, 4, 2, 2)
    question = FlowMatching(scheduler)(clean, batch())
    share = (question.times / 1000).view(-1, 1, 1, 1)
    assert torch.allclose(question.noisy - share * question.target, clean, atol=1e-5)
    plain = FlowMatching(scheduler, shift=1.0)(clean, batch()).times / 1000
    assert torch.allclose(question.times / 1000, 3 * plain / (1 + 2 * plain))


def test_times_are_spread_as_asked_for():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    clean = torch.zeros(2000, 1, 2, 2)
    uniform = FlowMatching(scheduler, "uniform")(clean, batch(2000)).times / 1000
    assert torch.allclose(uniform.sort().values, torch.linspace(0, 1, 2000), atol=0.05)
    normal = FlowMatching(scheduler, mean=0.5, deviation=2.0)(clean, batch(2000)).times / 1000
    logit = (normal / (1 - normal)).log()
    assert abs(logit.mean() - 0.5) < 0.15 and abs(logit.std() - 2) < 0.15


@pytest.mark.parametrize("sides", [(32, 32), (64, 96), (128, 128)])
def test_a_dynamic_shift_is_the_pipelines(sides):
    """Flux shifts the times of larger pictures more; the expected sigmas are the scheduler's own."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    mu = calculate_shift(sides[0] * sides[1] // 4, 256, 4096, 0.5, 1.15)
    scheduler.set_timesteps(sigmas=[0.9, 0.5, 0.1], mu=mu)
    clean = torch.zeros(3, 1, *sides)
    plain = FlowMatching(scheduler, shift=1.0)(clean, batch()).times / 1000
    found = FlowMatching(scheduler)(clean, batch()).times / 1000
    shift = math.exp(mu)
    assert torch.allclose(found, shift * plain / (1 + (shift - 1) * plain), atol=1e-5)
    expected = torch.tensor([shift * s / (1 + (shift - 1) * s) for s in (0.9, 0.5, 0.1)])
    assert torch.allclose(scheduler.sigmas[:3], expected, atol=1e-4)


def test_unknown_words_are_refused():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(LoKrValueError, match="Unknown prediction"):
        Diffusion(scheduler, "sample")
    with pytest.raises(LoKrValueError, match="Unknown distribution"):
        FlowMatching(scheduler, "cosine")
    with pytest.raises(LoKrValueError, match="shift must be positive"):
        FlowMatching(scheduler, shift=0.0)
