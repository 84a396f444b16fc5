"""Both factors low-rank (``decompose_both``, r 4, factor 8) on a small Flux transformer with flow matching.

    python examples/train_decompose_both.py [FOLDER OF PICTURES]

As in PEFT, a factor is low-rank if r is below half of its longer side: here W2 is, and W1 (8 x 8) would be for r <= 3.
ComfyUI's LoKr Loader reads the file.
"""

from __future__ import annotations

import argparse

import torch

from lokr_core import LoKrConfig, get_lokr_model
from lokr_core.cli import add_arguments, run
from lokr_core.demo import (
    FLUX_TARGETS,
    flow_matching_loss,
    latents_of,
    load_pictures,
    prompt_embedding,
    small_flux,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", help="pictures to train on; four of noise by default")
    add_arguments(parser, "lokr-decompose-both")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    pictures, captions = torch.rand(4, 3, 64, 64) * 2 - 1, [""] * 4
    if options.folder:
        pictures, captions = load_pictures(options.folder, 64)
    config = LoKrConfig(r=4, alpha=4, decompose_both=True, decompose_factor=8, target_modules=FLUX_TARGETS)
    base = small_flux()
    prompts = prompt_embedding(captions, base.config.joint_attention_dim)
    model, loss = get_lokr_model(base, config), flow_matching_loss(latents_of(pictures), prompts)
    trained = run(model, loss, len(pictures), options)
    if trained:
        print(trained.text())


if __name__ == "__main__":
    main()
