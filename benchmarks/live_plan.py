"""Is live's plan right? Each layer of a model timed both ways, on the shapes of a real step: ``--only live-plan``.

A row compares the sum over all layers as planned with the sum of each layer's better way by the clock. ``LOKR_MINUTES``
(6) is about what the part takes on two cores.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lokr_core import Adapter, attach
from lokr_core.live import FACTORED, THROUGH, forced

from .gpu_models import sd15, sdxl
from .measure import Run, paired_times
from .updates import DORA_OUT, KINDS, RANK16, WHOLE, Form, twin, update_of

__all__ = ["lines", "run"]

MINUTES = float(os.environ.get("LOKR_MINUTES", "6"))
FORMS = (WHOLE, RANK16, DORA_OUT)
MOST = 25  # turns of a layer


class Shape(NamedTuple):
    """A layer's class and arguments, and its input's shape: layers of the same shape are timed once."""

    kind: type
    sizes: tuple
    input: tuple[int, ...]

    def make(self) -> tuple[nn.Module, Tensor]:
        torch.manual_seed(0)
        return self.kind(*self.sizes), torch.randn(self.input)


def vit_b() -> nn.Module:
    from transformers import ViTConfig, ViTModel

    return ViTModel(ViTConfig(), add_pooling_layer=False)


def _unet(side: tuple[int, int], batch: int, text: int, further: bool = False) -> Callable[[nn.Module], object]:
    def call(model: nn.Module) -> object:
        added = {"text_embeds": torch.zeros(batch, 1280), "time_ids": torch.zeros(batch, 6)} if further else None
        x, words = torch.zeros(batch, 4, *side), torch.zeros(batch, 77, text)
        return model(x, torch.zeros(batch), words, added_cond_kwargs=added)

    return call


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...], Callable[[nn.Module], object]]] = {
    "SD1.5 UNet, 1 × 48×80": (sd15, KINDS, _unet((48, 80), 1, 768)),
    "SD1.5 UNet, 1 × 40×24": (sd15, KINDS, _unet((40, 24), 1, 768)),
    "SD1.5 UNet, 2 × 64×64": (sd15, KINDS, _unet((64, 64), 2, 768)),
    "SDXL UNet, 1 × 64×64": (sdxl, KINDS, _unet((64, 64), 1, 2048, True)),
    "SDXL UNet, 1 × 96×96": (sdxl, KINDS, _unet((96, 96), 1, 2048, True)),
    "ViT-B, 1 picture": (vit_b, ("layers.",), lambda model: model(torch.zeros(1, 3, 224, 224))),
    "ViT-B, 4 pictures": (vit_b, ("layers.",), lambda model: model(torch.zeros(4, 3, 224, 224))),
}


@torch.no_grad()
def shapes(make: Callable[[], nn.Module], kinds: tuple[str, ...], call: Callable[[nn.Module], object]) -> Counter:
    """How many layers of each shape a step goes through. Nothing is computed: all tensors are on "meta"."""
    found: Counter = Counter()

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sizes = (module.in_features, module.out_features) if isinstance(module, nn.Linear) else None
        if isinstance(module, nn.Conv2d):
            sizes = module.in_channels, module.out_channels, module.kernel_size, module.stride, module.padding
        found[Shape(nn.Linear if isinstance(module, nn.Linear) else nn.Conv2d, sizes, tuple(inputs[0].shape))] += 1

    with torch.device("meta"):
        model = make().eval()
        for name, module in model.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)) and any(kind in name for kind in kinds):
                module.register_forward_pre_hook(note)
        call(model)
    return found


def run() -> list[dict]:
    seconds = 60 * MINUTES / (len(MODELS) * len(FORMS))
    return [
        row for name, (make, kinds, call) in MODELS.items() for row in _rows(name, shapes(make, kinds, call), seconds)
    ]


@torch.no_grad()
def _rows(name: str, counted: Counter, seconds: float) -> list[dict]:
    work = {shape: _base(shape) for shape in counted}
    rows = []
    for form in FORMS:
        sums, through = dict.fromkeys(("base", "factored", "through", "as planned", "the better way"), 0.0), 0
        for shape, count in counted.items():
            share = work[shape] ** 0.5 / sum(each**0.5 for each in work.values())
            times, way = _timed(shape, form, seconds * share)
            through += count * (way == THROUGH)
            times |= {"as planned": times["through" if way == THROUGH else "factored"]}
            times |= {"the better way": min(times["factored"], times["through"])}
            for key in sums:
                sums[key] += count * times[key]
        base = sums["base"]
        rows.append(
            {
                "case": f"{name}, {counted.total()} layers of {len(counted)} shapes, {form.name}",
                "s": sums,
                "of the base": {key: value / base for key, value in sums.items()},
                "of the better way": sums["as planned"] / sums["the better way"],
                "share through the weight": through / counted.total(),
            }
        )
    return rows


def _base(shape: Shape) -> float:
    layer, x = shape.make()
    layer(x)
    start = time.perf_counter()
    layer(x)
    return time.perf_counter() - start


def _timed(shape: Shape, form: Form, seconds: float) -> tuple[dict[str, float], str]:
    """(run -> seconds, the planned way) of one layer. A way's time is its ratio to the base times the base's."""
    layer, x = shape.make()
    ours = nn.Sequential(twin(layer))
    with attach(ours, Adapter({"0": update_of(layer.weight, form)}), 0.5) as handle:
        ours(x)
        way = handle.plan()[0].way
        runs = {"base": Run(lambda: layer(x))}
        for name, each in (("factored", FACTORED), ("through", THROUGH)):
            runs[name] = Run(lambda: ours(x), lambda each=each: forced(each))
        found = paired_times(runs, seconds, most=MOST)
    base = found["base"].seconds
    return {name: timing.of_base * base for name, timing in found.items()}, way


def lines(results: list[dict]) -> list[str]:
    """The results as a text table."""
    out = []
    for row in results:
        ratios = ", ".join(f"{name} {value:.3f}" for name, value in row["of the base"].items() if name != "base")
        share = f"{row['share through the weight']:.0%} through the weight"
        out.append(f"{row['case']}: {ratios}; as planned {row['of the better way']:.3f} of the better way; {share}")
    return out
