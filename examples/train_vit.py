"""A vision transformer that learns to classify patterns, with LoKr (rank dropout 0.1) and a new head.

    python examples/train_vit.py

The head is trained whole, so the adapter is saved in PEFT's layout, which holds such modules:
``PeftModel.from_pretrained`` and ``LoKrModel.from_pretrained`` read it.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

from lokr_core import LoKrConfig, LoKrModel, get_lokr_model
from lokr_core.cli import add_arguments, run
from lokr_core.training import Batch

SIZE, CLASSES = 32, ("stripes across", "stripes down", "checks")


def patterns(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(pictures (count, 3, 32, 32), their classes): patterns at random offsets and in random colours, with noise."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    pictures, classes = [], torch.arange(count) % len(CLASSES)
    for number in classes.tolist():
        down, right = torch.randint(0, 4, (2,), generator=generator)
        across, upright = (y + down) // 2 % 2, (x + right) // 2 % 2
        bright = (across, upright, (across + upright) % 2)[number]
        colour = torch.rand(3, 1, 1, generator=generator) + 0.5
        pictures.append((bright - 0.5) * colour + 0.3 * torch.randn(3, SIZE, SIZE, generator=generator))
    return torch.stack(pictures), classes


def tiny_vit() -> nn.Module:
    return ViTForImageClassification(
        ViTConfig(
            image_size=SIZE,
            patch_size=4,
            hidden_size=96,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=192,
            num_labels=len(CLASSES),
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, "lokr-vit", batch_size=16, learning_rate=3e-3)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    pictures, classes = patterns(384, torch.Generator().manual_seed(0))
    config = LoKrConfig(
        r=8,
        alpha=16,
        rank_dropout=0.1,
        target_modules=["query", "key", "value", "q_proj", "k_proj", "v_proj", "fc1", "fc2"],
        modules_to_save=["classifier"],
    )
    model = get_lokr_model(tiny_vit(), config)

    def loss_of(spread: nn.Module, batch: Batch) -> Tensor:
        device = next(spread.parameters()).device
        return F.cross_entropy(spread(pictures[batch.indices].to(device)).logits, classes[batch.indices].to(device))

    def save(is_first: bool) -> None:
        model.save_pretrained(options.out, is_main_process=is_first)

    trained = run(model, loss_of, len(pictures), options, save)
    if trained:
        torch.manual_seed(options.seed)
        model = LoKrModel.from_pretrained(tiny_vit(), options.out).eval()
        unseen, expected = patterns(96, torch.Generator().manual_seed(1))
        with torch.no_grad():
            right = (model(unseen).logits.argmax(1) == expected).float().mean()
        print(trained.text())
        print(f"{right:.0%} of 96 pictures it has not seen are classified correctly (by chance: 33%)")


if __name__ == "__main__":
    main()
