"""Write a LoKr file of random numbers that fits a checkpoint, to try the loaders with. Downloads and trains nothing.

    python examples/lokr_to_try.py CHECKPOINT OUT

It changes each attention layer of the checkpoint's diffusion model by a tenth of its norm. The effect on a picture can
be seen but means nothing; at strength 0 the picture is the checkpoint's own.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import torch
from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without installation

from lokr_core import Adapter, Factor, LoKrWeights, factorization, save_adapter
from lokr_core.kronecker import kron_norm

RANK = 4
CHANGE = 0.1  # ‖ΔW‖ / ‖W‖ at strength 1
# A checkpoint holds other models besides the diffusion model; a file of the diffusion model alone has no prefix.
OTHER_MODELS = re.compile(r"(first_stage_model|cond_stage_model|conditioner|text_encoders?|vae)\.")
PREFIX = re.compile(r"^(model\.)?diffusion_model\.")
ATTENTION = re.compile(r"attn|attention")


def random_lokr(weight: torch.Tensor) -> LoKrWeights:
    """For a weight (out, in): W1 (a, b), and W2 (out/a, in/b) of rank RANK."""
    (a, rows), (b, columns) = (factorization(size, 8) for size in weight.shape)
    w1, w2 = torch.randn(a, b), Factor(a=torch.randn(rows, RANK), b=torch.randn(RANK, columns))
    w1 *= CHANGE * float(weight.float().norm()) / kron_norm(w1, w2)
    return LoKrWeights(Factor(w1), w2, alpha=RANK)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a .safetensors file")
    parser.add_argument("out", type=Path, metavar="OUT", help="the file to write, as in models/loras/try.safetensors")
    options = parser.parse_args()
    torch.manual_seed(0)
    modules: dict[str, LoKrWeights] = {}
    with safe_open(options.checkpoint, "pt") as checkpoint:
        for name in checkpoint.keys():  # noqa: SIM118  (not a dict)
            if OTHER_MODELS.match(name) or not (name.endswith(".weight") and ATTENTION.search(name)):
                continue
            if len(checkpoint.get_slice(name).get_shape()) != 2:
                continue  # a norm or a convolution
            module = "diffusion_model." + PREFIX.sub("", name).removesuffix(".weight")
            modules[module] = random_lokr(checkpoint.get_tensor(name))
    if not modules:
        sys.exit(f"{options.checkpoint}: no attention layer of a diffusion model found")
    save_adapter(Adapter(modules), options.out, dtype=torch.float16)
    print(f"{len(modules)} layers, written: {options.out}")


if __name__ == "__main__":
    main()
