"""LoKr Train's passes, inside ComfyUI's own sampling: core's guider loads the model, core's loss is taken."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import comfy.model_management as management
import comfy.sample
import comfy.samplers
import torch
from comfy_extras import nodes_train
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
from torch import Tensor

from ..lokr_core.adapter import Adapter
from ..lokr_core.training import TrainingSession
from .train_data import Pictures, Prepared, conds_of
from .train_plan import LOSSES, TrainPlan
from .train_tensors import normal_tensors, out_of_place

PREFIX = "diffusion_model."
_BLOCKS_DEPTH = 2
"""Core counts the model itself as depth 1, so its blocks are at 2."""
_BETWEEN_SEEDS = 1000
"""Between the noise seeds of two passes, as in core's Train LoRA."""


@dataclass
class Run:
    """A training of ``patcher``'s model, a clone of the node's, in any number of parts.

    make: the plan's layers for a model on a device
    """

    patcher: object
    pictures: Pictures
    plan: TrainPlan
    make: Callable[[torch.nn.Module, TrainPlan, torch.device], object]
    on_step: Callable[[TrainingSession], None]
    resume: Callable[[TrainingSession], None]
    layers: object = None
    session: TrainingSession | None = None
    _core: object = field(init=False)

    def __post_init__(self):
        self._core = nodes_train.TrainSampler(LOSSES[self.plan.loss](), None, training_dtype=self.plan.dtype)

    @property
    def steps(self) -> int:
        return 0 if self.session is None else self.session.steps

    def adapter(self) -> Adapter:
        return self.layers.to_adapter(PREFIX)

    def advance(self, until: int, paint: bool) -> Tensor | None:
        """Take steps up to the step ``until``; then, with ``paint``, sample a latent (1, channels, …) and return it.

        The latent is in the model's own scale.
        """
        # Training needs more memory than ComfyUI's estimate for sampling: other models leave the device.
        management.load_models_gpu([self.patcher], memory_required=1e20, force_full_load=True)
        guider, part = nodes_train.TrainGuider(self.patcher), _Part(self, until, paint)
        bucket = self.pictures.buckets[0]
        guider.set_conds(bucket.conditioning[:1])
        latent = bucket.latents[:1]
        guider.sample(torch.zeros_like(latent), latent, part, torch.zeros(1), disable_pbar=True, seed=self._seed)
        return part.painted

    @property
    def _seed(self) -> int:
        return self.plan.settings.seed

    def _start(self) -> None:
        """Make the layers, once the model is where it will be trained."""
        torch.manual_seed(self._seed)
        self.layers = self.make(self.patcher.model.diffusion_model, self.plan, self.patcher.load_device)
        self.session = TrainingSession(self.layers.parameters(), self.plan.settings)
        self.resume(self.session)

    @contextmanager
    def _training(self):
        """The model with its trained layers, as autograd takes it; afterwards as ComfyUI left it."""
        model = self.patcher.model
        with ExitStack() as undo:
            undo.enter_context(torch.inference_mode(False))
            undo.enter_context(torch.enable_grad())
            undo.enter_context(normal_tensors(model))
            if self.layers is None:
                self._start()
            undo.enter_context(self.layers.inserted())
            undo.callback(setattr, management, "in_training", management.in_training)
            management.in_training = True
            undo.enter_context(out_of_place(model.diffusion_model))
            if self.plan.checkpointing:
                for block in nodes_train.find_modules_at_depth(model.diffusion_model, _BLOCKS_DEPTH):
                    undo.enter_context(out_of_place(block))
                    undo.callback(nodes_train.unpatch, block)
                    nodes_train.patch(block)
            yield


class _Part(comfy.samplers.Sampler):
    """Some steps of a run, called by the guider as its sampler."""

    def __init__(self, run: Run, until: int, paint: bool):
        self.run, self.until, self.paint = run, until, paint
        self.painted: Tensor | None = None

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
    ):
        run, device = self.run, model_wrap.model_patcher.load_device
        with run._training():
            buckets = [Prepared.of(bucket, model_wrap, device, run._seed) for bucket in run.pictures.buckets]
            run.layers.train(True)
            run.session.begin()
            passes = run.session.steps * run.plan.settings.accumulate
            while run.session.steps < self.until:
                management.throw_exception_if_processing_interrupted()
                loss = self._loss(model_wrap, buckets, run._seed + passes * _BETWEEN_SEEDS, extra_args)
                passes += 1
                if run.session.backward(loss):
                    run.on_step(run.session)
            if self.paint:
                run.layers.train(False)
                self.painted = self._painted(model_wrap, extra_args, device)
        return torch.zeros_like(latent_image)

    def _loss(self, guider, buckets: list[Prepared], seed: int, extra_args: dict) -> Tensor:
        """Core's mean loss of one random batch, all of one bucket: ()."""
        sizes = torch.tensor([float(len(bucket.latents)) for bucket in buckets])
        bucket = buckets[int(torch.multinomial(sizes, 1))]
        numbers = torch.randperm(len(bucket.latents))[: self.run.plan.settings.batch_size].tolist()
        noise = Noise_RandomNoise(seed % 2**64).generate_noise({"samples": bucket.latents[numbers]})
        noise = noise.to(bucket.latents)
        sigma_at = guider.inner_model.model_sampling.percent_to_sigma
        sigmas = torch.tensor([sigma_at(share) for share in torch.rand(len(numbers)).tolist()]).to(noise)
        total, place = None, 0
        for some, cond in bucket.batch(numbers):
            part = slice(place, place + len(some))
            arguments = sigmas[part], noise[part], bucket.latents[some], [cond], [0], extra_args, 1
            loss = self.run._core.fwd_bwd(guider, *arguments, bwd=False) * (len(some) / len(numbers))
            total, place = loss if total is None else total + loss, part.stop
        return total

    @torch.no_grad()
    def _painted(self, guider, extra_args: dict, device: torch.device) -> Tensor:
        run, sample, bucket = self.run, self.run.plan.sample, self.run.pictures.buckets[0]
        latent = torch.zeros_like(bucket.latents[:1]).to(device)
        noise = comfy.sample.prepare_noise(bucket.latents[:1], run._seed).to(device)
        roles = {"positive": bucket.conditioning[:1], "negative": sample.negative}
        guider.conds = conds_of(guider, {role: c for role, c in roles.items() if c}, latent, device, run._seed)
        guider.set_cfg(sample.cfg if sample.negative else 1.0)
        sigmas = comfy.samplers.calculate_sigmas(guider.inner_model.model_sampling, "simple", sample.steps).to(device)

        def stop_if_interrupted(*_: object) -> None:
            management.throw_exception_if_processing_interrupted()

        arguments = {**extra_args, "seed": run._seed}
        return comfy.samplers.ksampler("euler").sample(
            guider, sigmas, arguments, stop_if_interrupted, noise, latent, None, True
        )
