"""DreamBooth with LoKr on a tiny UNet of Stable Diffusion 1.5's shape: no download, a minute on a CPU.

    python examples/train_dreambooth.py [FOLDER OF PICTURES]
    accelerate launch --num_processes 2 examples/train_dreambooth.py --batch-size 2

``lokr train`` trains the real model; this shows the parts of such a training on one that needs no download. After an
interruption the same command resumes from the last checkpoint and gives the same result.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from lokr_core import LoKrConfig, get_lokr_model
from lokr_core.cli import add_arguments, run
from lokr_core.demo import latents_of, load_pictures, prompt_embedding
from lokr_core.training import Batch

PROMPT = "a photo of sks dog"
# PEFT's own example for Stable Diffusion: all Linear and 1x1 layers of the transformer blocks.
TARGETS = ["proj_in", "proj_out", "to_k", "to_q", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"]


def tiny_unet() -> UNet2DConditionModel:
    """SD1.5's four levels and kinds of blocks, 10 times narrower."""
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64, 128, 128),
        layers_per_block=1,
        cross_attention_dim=96,
        attention_head_dim=8,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", help="pictures to train on; four of noise by default")
    add_arguments(parser, "lokr-dreambooth", batch_size=2)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    pictures = load_pictures(options.folder, 128)[0] if options.folder else torch.rand(4, 3, 128, 128) * 2 - 1
    latents = latents_of(pictures)[:, :4]
    prompts = prompt_embedding([PROMPT] * len(latents), 96)
    scheduler = DDPMScheduler()
    config = LoKrConfig(r=8, alpha=16, decompose_factor=-1, target_modules=TARGETS)

    def loss_of(model: nn.Module, batch: Batch) -> Tensor:
        """The mean square error of the predicted noise."""
        clean = latents[batch.indices]
        noise = batch.randn(*clean.shape[1:])
        steps = batch.randint(scheduler.config.num_train_timesteps)
        noisy = scheduler.add_noise(clean, noise, steps)
        device = next(model.parameters()).device
        predicted = model(noisy.to(device), steps.to(device), prompts[batch.indices].to(device)).sample
        return F.mse_loss(predicted.float(), noise.to(device))

    trained = run(get_lokr_model(tiny_unet(), config), loss_of, len(latents), options)
    if trained:
        print(trained.text())


if __name__ == "__main__":
    main()
